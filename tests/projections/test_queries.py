"""The read model's queries, over a log that was really judged."""

from __future__ import annotations

import uuid

import msgspec

from domain.events import AttemptLost, AttemptStarted, CheckpointSaved, EpochCompleted, JobStopRequested
from projections import queries
from schemas.topics import EVENTS
from tests.projections.fold import fold_of
from tests.projections.platform import Log, project
from tests.projections.records import Written, dataset_registered, job_requested, one_job, stream, written


async def test_every_job_is_found_in_its_own_workspace_alone(log: Log) -> None:
    job = str(uuid.uuid4())
    await log.write([*one_job("team", job=job), *one_job("others")])
    await project(log)
    keys = [("team", job), ("others", job), ("team", "no-such"), ("nobody", job)]
    found = await queries.jobs_seen(log.database, keys)
    mine = found["team", job].job
    assert mine is not None
    assert (mine.id, mine.status.value) == (job, "completed")
    assert [found[key].job for key in keys[1:]] == [None] * 3
    versions = [await queries.workspace_version(log.database, workspace) for workspace, _ in keys]
    assert [found[key].version for key in keys] == versions
    assert versions[0] == mine.version
    assert versions[3] == 0


async def test_pages_of_jobs_are_newest_first_and_neither_skip_nor_repeat(log: Log) -> None:
    ids = [str(uuid.uuid4()) for _ in range(7)]
    await log.write([record for id in ids for record in one_job("team", epochs=1, job=id)])
    await project(log)
    seen, before = [], None
    while page := await queries.jobs_page(log.database, "team", limit=3, before=before):
        seen += [row.job.id for row in page]
        before = page[-1].requested_version
    assert seen == ids[::-1]
    assert await queries.jobs_page(log.database, "team", limit=3, before=0) == []
    assert await queries.jobs_page(log.database, "team", limit=9, status="queued") == []
    assert len(await queries.jobs_page(log.database, "team", limit=9, status="completed")) == 7


async def test_history_follows_the_chain_of_attempts_that_counts(log: Log) -> None:
    dataset, job = str(uuid.uuid4()), str(uuid.uuid4())
    saved = CheckpointSaved(attempt=1, worker="w1", epoch=2, step=2, uri="c", sha256="a" * 64)
    events = [
        AttemptStarted(attempt=1, worker="w1"),
        *(EpochCompleted(attempt=1, worker="w1", epoch=n, metrics={"loss": 1.0 / n}) for n in (1, 2)),
        saved,
        EpochCompleted(attempt=1, worker="w1", epoch=3, metrics={"loss": 9.0}),
        AttemptLost(attempt=1, worker="w1", reason="killed"),
        AttemptStarted(attempt=2, worker="w2", checkpoint=saved.checkpoint()),
        *(EpochCompleted(attempt=2, worker="w2", epoch=n, metrics={"loss": 1.0 / n}) for n in (3, 4)),
    ]
    await log.write(
        [
            written(dataset_registered(), workspace="team", subject=dataset, id=dataset),
            written(job_requested(dataset), workspace="team", subject=job, id=job),
            *(written(event, workspace="team", subject=job, actor=event.worker) for event in events),
        ]
    )
    await project(log)
    found = (await queries.jobs_seen(log.database, [("team", job)]))["team", job].job
    assert found is not None
    rows = await queries.history(log.database, "team", found)
    assert [(row.attempt, row.epoch) for row in rows] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert (rows[2].loss, msgspec.json.decode(rows[2].metrics)) == (1 / 3, {"loss": 1 / 3})


async def test_the_records_of_a_job_come_in_log_order_with_the_refused_ones_and_without_strangers(log: Log) -> None:
    job = str(uuid.uuid4())
    records = one_job("team", epochs=2, job=job)
    late = written(JobStopRequested(), workspace="team", subject=job)
    # It says "team", under another workspace's key: refused, and not shown among the team's records.
    stranger = Written(b"others", written(JobStopRequested(), workspace="team", subject=job).value)
    await log.write([*records, late, stranger])
    await project(log)
    events = await queries.job_events(log.database, "team", job)
    assert [event.type for event in events] == [
        *("JobRequested", "AttemptStarted", "EpochCompleted", "EpochCompleted", "ModelRegistered", "JobStopRequested")
    ]
    assert [event.refusal for event in events] == [None] * 5 + ["already_over"]
    assert bytes(events[2].data).startswith(b'{"attempt":1')
    assert [e.offset for e in await queries.job_events(log.database, "team", job, after=events[2].offset, limit=2)] == [
        event.offset for event in events[3:5]
    ]


async def test_datasets_and_models_are_listed_newest_first(log: Log) -> None:
    await log.write([*one_job("team"), *one_job("team"), *one_job("others")])
    await project(log)
    first, second = reversed(await queries.datasets_page(log.database, "team", limit=5))
    assert (first.name, first.number, second.number) == ("flowers", 1, 2)
    assert await queries.dataset(log.database, "team", first.id) == first
    assert await queries.dataset(log.database, "others", first.id) is None
    [newest] = await queries.models_page(log.database, "team", limit=5)
    assert (newest.name, newest.number) == ("flowers", 2)
    assert [m.number for m in await queries.model_versions(log.database, "team", "flowers")] == [2, 1]
    older = await queries.model_version(log.database, "team", "flowers", 1)
    assert older is not None
    assert older.version < newest.version
    assert await queries.model_version(log.database, "team", "flowers", 3) is None


async def test_a_request_s_verdict_is_that_of_its_first_record(log: Log) -> None:
    [dataset, request, *rest] = one_job("team")
    await log.write([dataset, request, *rest, request])
    await project(log)
    row = await log.database.fetchrow("SELECT id FROM log.requests WHERE type = 'ravand.JobRequested'")
    verdict = await queries.request_verdict(log.database, "team", row["id"])
    assert verdict is not None
    assert (verdict.version, verdict.refusal, verdict.subject) == (2, None, row["id"])
    assert await queries.request_verdict(log.database, "others", row["id"]) is None


async def test_facts_out_of_the_journal_are_those_that_were_published(log: Log) -> None:
    await log.write(stream(6, ["team", "others"], 400))
    await project(log)
    folded = {
        version: fact for (name, version), fact in fold_of(await log.read(EVENTS))["facts"].items() if name == "team"
    }
    version = await queries.workspace_version(log.database, "team")
    assert version == max(folded)
    facts = await queries.facts_since(log.database, "team", 3, limit=10_000)
    assert {fact.version: fact.value for fact in facts} == {v: fact for v, fact in folded.items() if v > 3}
    job = (await queries.jobs_page(log.database, "team", limit=1))[0].job
    of_job = await queries.facts_since(log.database, "team", job.previous, job_id=job.id)
    assert [fact.version for fact in of_job] == [job.version]
    assert await queries.log_id(log.database)
    assert await queries.workspace_version(log.database, "nobody") == 0
