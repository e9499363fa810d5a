"""What happened is told the same from the journal and from the log, and so that a person understands it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from audit.entries import Entry, from_journal, from_log
from audit.reading import Unnamed, connected, job_before, workspace_of
from audit.reasons import reason
from audit.selection import Selection
from audit.story import Narrator
from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    EpochCompleted,
    Event,
    JobFailed,
    JobPauseRequested,
    JobRetried,
    JobStopped,
    JobStopRequested,
    ModelRegistered,
    PriorityChanged,
)
from domain.job import Job
from domain.refusal import Refusal
from tests.projections.platform import ROOT, Log, project
from tests.projections.records import (
    SHA,
    Written,
    dataset_registered,
    job_requested,
    model_registered,
    one_job,
    stream,
    written,
)


@pytest_asyncio.fixture
async def mixed(log: Log) -> Log:
    """Three workspaces, with refused records of many kinds."""
    records = [
        *one_job("team-0", epochs=3),
        *stream(5, ["team-0", "team-1", "team-2"], 400),
        Written(b"team-0", b"no record of ours"),
    ]
    await log.write(records)
    await project(log)
    return log


async def everything(entries: AsyncIterator[Entry]) -> list[Entry]:
    return [entry async for entry in entries]


def plain(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.partition,
        entry.offset,
        entry.at,
        entry.id,
        entry.type,
        entry.workspace,
        entry.subject,
        entry.actor,
        entry.version,
        entry.refusal,
        entry.value,
        entry.model_number,
    )


async def test_the_log_judged_anew_tells_what_the_journal_tells(mixed: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.entries._CHUNK", 50)
    wide = {"team": Selection(workspace="team-1"), "all": Selection()}
    async with connected(mixed.settings) as connection:
        for name in wide:
            stored = await everything(from_journal(connection, wide[name]))
            judged = await everything(from_log(mixed.settings.kafka, wide[name]))
            assert [plain(entry) for entry in stored] == [plain(entry) for entry in judged]
            assert len(stored) > 50
        assert {entry.refusal for entry in stored} > {"fenced", "duplicate", "undecodable"}


def brute(entries: list[Entry], condition: Any) -> list[tuple[Any, ...]]:
    return [plain(entry) for entry in entries if condition(entry)]


async def test_each_condition_selects_what_it_says(mixed: Log) -> None:
    async with connected(mixed.settings) as connection:
        mine = await everything(from_journal(connection, Selection(workspace="team-0")))
        one = next(e for e in mine if e.type == "AttemptStarted" and e.version)
        dataset = next(e for e in mine if e.type == "DatasetRegistered").subject
        asked = {e.subject for e in mine if e.type == "JobRequested" and e.event.dataset.id == dataset}  # type: ignore[union-attr]
        of_datasets = ("JobRequested", "ModelRegistered")
        middle = mine[len(mine) // 2].at
        last = max(e.version or 0 for e in mine)
        low, high = last // 3, 2 * last // 3
        first_at = next(e.offset for e in mine if e.version == low - 1)
        last_at = next(e.offset for e in mine if e.version == high)
        conditions: list[tuple[dict[str, Any], Any]] = [
            ({"job": one.subject}, lambda e: e.subject == one.subject),
            ({"actor": one.actor}, lambda e: e.actor == one.actor),
            ({"since": middle}, lambda e: e.at >= middle),
            ({"until": middle}, lambda e: e.at <= middle),
            ({"verdict": "refused"}, lambda e: e.version is None),
            ({"verdict": "effective"}, lambda e: e.version is not None),
            ({"versions": (low, high)}, lambda e: first_at < e.offset <= last_at),
            ({"model": "flowers"}, lambda e: e.type in ("JobRequested", "ModelRegistered")),
            (
                {"dataset": dataset},
                lambda e: (
                    e.subject == dataset or (e.type in ("JobRequested", "ModelRegistered") and e.subject in asked)
                ),
            ),
            (
                {"dataset": dataset, "versions": (low, high), "verdict": "effective"},
                lambda e: low <= (e.version or 0) <= high and e.subject in asked and e.type in of_datasets,
            ),
        ]
        for options, condition in conditions:
            expected = brute(mine, condition)
            found = await everything(from_journal(connection, Selection(workspace="team-0", **options)))
            assert [plain(entry) for entry in found] == expected, options
            judged = await everything(from_log(mixed.settings.kafka, Selection(workspace="team-0", **options)))
            assert [plain(entry) for entry in judged] == expected, options
            assert expected or "dataset" in options, options


async def test_a_workspace_is_found_by_what_is_in_it(mixed: Log) -> None:
    async with connected(mixed.settings) as connection:
        job = await connection.fetchrow("SELECT workspace, job_id FROM read.jobs WHERE workspace = 'team-2' LIMIT 1")
        assert await workspace_of(connection, job=job["job_id"]) == "team-2"
        with pytest.raises(Unnamed, match="several workspaces"):
            await workspace_of(connection)
        with pytest.raises(Unnamed, match="No job nobody"):
            await workspace_of(connection, job="nobody")


async def test_reading_can_write_nothing(mixed: Log) -> None:
    async with connected(mixed.settings) as connection:
        with pytest.raises(Exception, match="read-only"):
            await connection.execute("UPDATE read.jobs SET priority = 1")


# --- the story --------------------------------------------------------------------------------------------------------


def eventful() -> list[Written]:
    """A job that is lost, resumed elsewhere while its old worker still talks, paused, and stopped."""

    def of_job(event: Event, actor: str) -> Written:
        return written(event, workspace="team", subject="job-1", actor=actor)

    checkpoint = CheckpointSaved(attempt=1, worker="w1", epoch=2, step=20, uri="c", sha256=SHA)
    request = written(job_requested("data-1"), workspace="team", subject="job-1", id="job-1", actor="ada")
    return [
        written(dataset_registered(), workspace="team", subject="data-1", id="data-1", actor="ada"),
        request,
        request,
        of_job(AttemptStarted(attempt=1, worker="w1"), "w1"),
        of_job(AttemptStarted(attempt=1, worker="w2"), "w2"),
        of_job(EpochCompleted(attempt=1, worker="w1", epoch=1, metrics={"loss": 1.0}), "w1"),
        of_job(EpochCompleted(attempt=1, worker="w1", epoch=2, metrics={"loss": 0.5}), "w1"),
        of_job(checkpoint, "w1"),
        of_job(AttemptLost(attempt=1, worker="w1", reason="lease_expired"), "supervisor-1"),
        of_job(EpochCompleted(attempt=1, worker="w1", epoch=3, metrics={"loss": 0.4}), "w1"),
        of_job(AttemptStarted(attempt=2, worker="w2", checkpoint=checkpoint.checkpoint()), "w2"),
        of_job(JobStopped(attempt=1, worker="w1"), "w1"),
        of_job(EpochCompleted(attempt=2, worker="w2", epoch=5, metrics={"loss": 0.4}), "w2"),
        of_job(PriorityChanged(priority=7), "ada"),
        of_job(JobStopRequested(), "ada"),
        of_job(JobPauseRequested(), "bob"),
        of_job(JobStopped(attempt=2, worker="w2"), "w2"),
        of_job(JobRetried(), "ada"),
        of_job(JobStopRequested(), "ada"),
        of_job(JobStopRequested(), "bob"),
    ]


STORY = [
    "v1 ada registered the dataset flowers (2 rows, csv).",
    "v2 ada asked for the job job: tabular version 1 on dataset data-1, 20 epochs, for the model flowers. The job is queued.",
    "refused ada wanted to ask for the job job: tabular version 1 on dataset data-1, 20 epochs, for the model flowers. This"
    " did not take effect: a request with this id was on the log before (at version 2), and the first one decides.",
    "v3 Worker w1 claimed attempt 1, from the beginning. The job is running.",
    "refused Worker w2 wanted to claim attempt 1, from the beginning. This did not take effect: the claim of w1 came first,"
    " at version 3 or before.",
    "v4-6 Worker w1 reported epochs 1 to 2 of attempt 1 (loss 1 → 0.5), and saved 1 checkpoint.",
    "v7 supervisor-1 reported that attempt 1 of worker w1 was lost: it had been silent past its lease. The job is queued"
    " again (loss 1 of 3).",
    "refused Worker w1 reported epoch 3 of attempt 1 (loss 0.4). This did not take effect: attempt 1 was over (lease"
    " expired): the job was queued, and its worker was still talking.",
    "v8 Worker w2 claimed attempt 2, from the checkpoint of attempt 1 after epoch 2. The job is running.",
    "refused Worker w1 reported that attempt 1 has stopped. This did not take effect: attempt 1 was over, and attempt 2 had"
    " begun: its worker was still talking.",
    "refused Worker w2 reported epoch 5 of attempt 2 (loss 0.4). This did not take effect: it reports epoch 5, and epoch 3"
    " was next.",
    "v9 ada set the priority to 7 (it was 0).",
    "v10 ada asked for a stop. The job is stopping.",
    "refused bob wanted to ask for a pause. This did not take effect: only a queued or running job can be paused; it was"
    " stopping.",
    "v11 Worker w2 reported that attempt 2 has stopped. The job is stopped, since ada asked for it at version 10.",
    "v12 ada had the job tried again. The job is queued again.",
    "v13 ada asked for a stop. Nothing was running, so the job stopped at once.",
    "refused bob wanted to ask for a stop. This did not take effect: the job was over; it was stopped.",
]


async def test_the_story_of_a_job_gives_each_record_its_cause_and_each_refusal_its_reason(log: Log) -> None:
    await log.write(eventful())
    await project(log)
    async with connected(log.settings) as connection:
        for entries in (
            from_journal(connection, Selection(workspace="team")),
            from_log(log.settings.kafka, Selection(workspace="team")),
        ):
            told = [f"{t.mark} {t.sentence}" async for t in Narrator().tell(entries)]
            assert told == STORY

        async def load(entry: Entry) -> Job | None:
            return await job_before(connection, entry)

        # What is left out between the records that are told is known all the same.
        selection = Selection(workspace="team", verdict="refused")
        narrator = Narrator(load, always=True)
        told = [t.sentence async for t in narrator.tell(from_journal(connection, selection))]
        refused = [line.removeprefix("refused ") for line in STORY if line.startswith("refused ")]
        assert [line.replace(" (at version 2)", "") for line in refused] == told
        every = [t async for t in Narrator().tell(from_journal(connection, Selection(job="job-1")), every=True)]
        assert len(every) == len(eventful()) - 1


async def run(log: Log, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "audit", *arguments, cwd=ROOT, env=log.environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_tells_stories_tables_and_lines(log: Log) -> None:
    await log.write(eventful())
    await project(log)
    status, out, _ = await run(log, "replay", "--job", "job-1")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == len(STORY)  # The dataset's line is not the job's; the answer is one more.
    assert lines[-1] == "So the job job is stopped since version 13. Stopped after epoch 2."
    status, out, _ = await run(log, "replay", "--json", "--from-log", "--workspace", "team", "--verdict", "refused")
    documents = [json.loads(line) for line in out.splitlines()]
    assert [d["reason"] for d in documents].count("fenced") == 2
    assert all(d["data"] is not None for d in documents)
    status, out, _ = await run(log, "replay", "--actor", "supervisor-1")
    assert status == 0
    assert "AttemptLost" in out.splitlines()[1]
    status, out, _ = await run(log, "state", "--as-of", "6", "--job", "job-1", "--json")
    document = json.loads(out)
    assert (document["job"]["status"], document["job"]["epoch"], len(document["history"])) == ("running", 2, 2)
    status, out, _ = await run(log, "state", "--as-of", "2026-01-01T00:00:00Z")
    assert status == 0
    assert "at version 0" in out
    for arguments in (
        ("state", "--as-of", "9999"),
        ("state", "--as-of", "yesterday"),
        ("replay", "--versions", "9..3"),
        ("replay", "--since", "17"),
        ("replay", "--format", "poem"),
        ("replay", "--job", "nobody"),
    ):
        status, out, err = await run(log, *arguments)
        assert (status, out) == (1, "")
        assert err
        assert "Traceback" not in err


# --- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_has_a_sentence_whatever_is_known(refusal: Refusal) -> None:
    named = Checkpoint(attempt=1, epoch=1, step=1, uri="u", sha256=SHA)
    events: list[Event | None] = [
        None,
        job_requested("d"),
        AttemptStarted(attempt=3, worker="w", checkpoint=named),
        EpochCompleted(attempt=1, worker="w", epoch=1, metrics={}),
        JobFailed(attempt=1, worker="w", code="exception"),
        model_registered("w", 1),
        CheckpointSaved(attempt=1, worker="w", epoch=1, step=1, uri="u", sha256=SHA),
    ]
    assert isinstance(events[-2], ModelRegistered)
    for event in events:
        said = reason(refusal.value, event, None)
        assert said
        assert not said.endswith(".")
