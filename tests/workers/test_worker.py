"""One worker lives through many jobs: it trains what the table grants it, and reports whatever comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from domain.events import (
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
    EpochCompleted,
    JobFailed,
    JobPaused,
    JobRetried,
    JobStopped,
    ModelRegistered,
    ObjectRef,
    PriorityChanged,
)
from domain.job import Job, Status
from schemas import telemetry
from schemas.telemetry import LogLines, ResourceSample, StepMetrics
from schemas.topics import TELEMETRY
from tests.workers.installation import Installation
from tests.workers.reading import read_topic
from tests.workers.small_projector import SmallProjector

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
Shared = tuple[Installation, SmallProjector]


async def over(projector: SmallProjector, job_id: str) -> Job:
    """The job, once it is over."""
    found = await projector.until(lambda: (job := projector.job(job_id)) and job.is_over and job)
    assert isinstance(found, Job)
    return found


async def in_epoch(projector: SmallProjector, job_id: str, epoch: int) -> None:
    """Until that many epochs of the job count."""
    await projector.until(lambda: (job := projector.job(job_id)) and job.worker and job.epoch >= epoch)


def trainer_note(installation: Installation) -> dict[str, Any] | None:
    """What `ravand ps` reads."""
    note = installation.folder / "run" / f"trainer-{installation.services[0].process.pid}.json"
    with suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(note.read_text())
        return found
    return None


def scratch_folders(installation: Installation) -> list[Path]:
    return list((installation.folder / "scratch").iterdir())


async def text_of(installation: Installation, log: ObjectRef | None) -> str:
    assert log is not None
    return (await installation.store.get(log.uri)).decode()


class TestTraining:
    async def test_a_job_is_claimed_trained_and_becomes_a_model(self, shared: Shared) -> None:
        installation, projector = shared
        job_id = await installation.request({"epochs": 3})
        job = await over(projector, job_id)
        assert job.status is Status.COMPLETED, installation.services[0].said
        assert [event.epoch for event in projector.records(job_id, EpochCompleted)] == [1, 2, 3]
        assert len(projector.records(job_id, CheckpointSaved)) == 3
        assert len(projector.records(job_id, AttemptStarted)) == 1
        (model,) = projector.records(job_id, ModelRegistered)
        for file in model.files:
            assert await installation.store.head(file.uri) is not None
        assert projector.records(job_id, refused=True) == []

    async def test_records_name_the_worker_and_the_claim_that_they_rest_on(self, shared: Shared) -> None:
        installation, projector = shared
        job_id = await installation.request({"epochs": 1})
        await over(projector, job_id)
        said = [verdict for verdict in projector.verdicts if verdict.subject == job_id][1:]
        assert {verdict.actor for verdict in said} == {installation.services[0].worker_id}
        assert len({verdict.id for verdict in said}) == len(said)

    async def test_the_urgent_job_goes_first(self, shared: Shared) -> None:
        installation, projector = shared
        busy = await installation.request({"epochs": 1, "permits": str(installation.folder / "busy")})
        await projector.until(lambda: projector.records(busy, AttemptStarted))
        later = await installation.request({"epochs": 1})
        urgent = await installation.request({"epochs": 1})
        await installation.append(PriorityChanged(priority=5), urgent)
        installation.permits(1, "busy")
        await over(projector, later)
        started = [verdict.subject for verdict in projector.verdicts if isinstance(verdict.event, AttemptStarted)]
        assert started.index(urgent) < started.index(later)

    async def test_a_recipe_that_is_not_here_is_left_to_others(self, shared: Shared) -> None:
        installation, projector = shared
        strange = await installation.request({"epochs": 1}, recipe="from-elsewhere")
        job_id = await installation.request({"epochs": 1})
        await over(projector, job_id)
        assert projector.records(strange, AttemptStarted) == []
        await installation.stop(strange)

    async def test_what_is_measured_and_printed_is_telemetry(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(1, "measured")
        job_id = await installation.request({"epochs": 2, "lines": 500, "permits": permits})
        await in_epoch(projector, job_id, 1)
        found: list[telemetry.AnyTelemetry] = []
        async for record in read_topic(installation.settings.kafka, TELEMETRY, key=job_id):
            found.append(telemetry.decode(record.value))
            if {type(one) for one in found} == {StepMetrics, LogLines, ResourceSample}:
                break
        installation.permits(2, "measured")
        await over(projector, job_id)
        assert len({one.sequence for one in found}) == len(found)
        sample = next(one for one in found if isinstance(one, ResourceSample))
        assert sample.memory_bytes > 1_000_000

    async def test_while_a_child_trains_a_note_says_which(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(1, "noted")
        job_id = await installation.request({"epochs": 2, "permits": permits})
        await in_epoch(projector, job_id, 1)
        worker = installation.services[0]
        noted = trainer_note(installation)
        assert noted is not None
        assert noted["job_id"] == job_id
        assert noted["pid"] in worker.children()
        installation.permits(2, "noted")
        await over(projector, job_id)
        await projector.until(lambda: trainer_note(installation) is None and not scratch_folders(installation))


class TestBadEnds:
    @pytest.mark.parametrize(
        ("deed", "code", "exception"),
        [
            ("raise", "exception", "ValueError"),
            ("unusable", "unusable_data", "UnusableData"),
            ("diverge", "diverged", "Diverged"),
            ("long_name", "unusable_report", "UnusableReport"),
        ],
    )
    async def test_what_trying_again_would_repeat_fails_the_job(
        self, shared: Shared, deed: str, code: str, exception: str
    ) -> None:
        installation, projector = shared
        job_id = await installation.request({"epochs": 3, "deed": deed})
        job = await over(projector, job_id)
        (failed,) = projector.records(job_id, JobFailed)
        assert (job.status, failed.code, failed.exception) == (Status.FAILED, code, exception)
        assert projector.records(job_id, refused=True) == []

    async def test_the_last_lines_and_the_traceback_are_kept_beside_the_log_not_on_it(self, shared: Shared) -> None:
        installation, projector = shared
        job_id = await installation.request({"epochs": 3, "deed": "raise"})
        await over(projector, job_id)
        (failed,) = projector.records(job_id, JobFailed)
        text = await text_of(installation, failed.log)
        assert "about to go wrong" in text
        assert "ValueError: a secret of the data: vier-sieben-elf" in text
        assert "vier-sieben-elf" not in str(projector.verdicts)

    @pytest.mark.parametrize(
        ("deed", "reason"), [("kill", "killed"), ("exit", "killed"), ("out_of_memory", "out_of_memory")]
    )
    async def test_what_the_surroundings_did_is_a_loss_and_too_many_fail_the_job(
        self, shared: Shared, deed: str, reason: str
    ) -> None:
        installation, projector = shared
        parameters = {"epochs": 3, "deed": deed, "checkpoint_every": 1000}
        job_id = await installation.request(parameters, max_losses=2)
        job = await over(projector, job_id)
        lost = projector.records(job_id, AttemptLost)
        assert [event.reason for event in lost] == [reason, reason]
        assert job.status is Status.FAILED
        assert job.error is not None
        assert job.error.code == reason
        assert "training process ended" in await text_of(installation, lost[0].log) or deed != "exit"

    async def test_after_a_loss_the_next_attempt_goes_on_from_the_checkpoint(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(2, "resumed")
        job_id = await installation.request({"epochs": 4, "permits": permits})
        await projector.until(lambda: len(projector.records(job_id, CheckpointSaved)) == 2)
        noted = trainer_note(installation)
        assert noted is not None
        os.kill(noted["pid"], signal.SIGKILL)
        installation.permits(4, "resumed")
        job = await over(projector, job_id)
        first, second = projector.records(job_id, AttemptStarted)
        assert first.checkpoint is None
        assert second.checkpoint is not None
        assert second.checkpoint.epoch == 2
        assert (job.status, job.metrics["total"]) == (Status.COMPLETED, 10.0)


class TestWishes:
    async def test_a_stop_saves_a_checkpoint_and_ends_the_job(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(2, "stopped")
        job_id = await installation.request({"epochs": 9, "permits": permits, "checkpoint_every": 1000})
        await in_epoch(projector, job_id, 2)
        await installation.stop(job_id)
        job = await over(projector, job_id)
        assert job.status is Status.STOPPED
        (saved,) = projector.records(job_id, CheckpointSaved)
        assert saved.epoch == 2
        assert len(projector.records(job_id, JobStopped)) == 1

    async def test_a_stopped_job_that_is_retried_goes_on_where_it_was(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(2, "retried")
        job_id = await installation.request({"epochs": 3, "permits": permits, "checkpoint_every": 1000})
        await in_epoch(projector, job_id, 2)
        await installation.stop(job_id)
        await over(projector, job_id)
        installation.permits(3, "retried")
        await installation.append(JobRetried(), job_id)
        await projector.until(lambda: (job := projector.job(job_id)) and job.status is Status.COMPLETED)
        assert projector.records(job_id, AttemptStarted)[1].checkpoint is not None

    async def test_a_pause_rests_the_job_until_it_is_resumed(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(1, "paused")
        job_id = await installation.request({"epochs": 3, "permits": permits, "checkpoint_every": 1000})
        await in_epoch(projector, job_id, 1)
        await installation.pause(job_id)
        await projector.until(lambda: projector.records(job_id, JobPaused))
        other = await installation.request({"epochs": 1})
        await over(projector, other)
        installation.permits(3, "paused")
        await installation.resume(job_id)
        job = await over(projector, job_id)
        assert (job.status, job.metrics["total"]) == (Status.COMPLETED, 6.0)

    async def test_a_wish_withdrawn_while_the_child_leaves_puts_the_job_back(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(1, "withdrawn")
        job_id = await installation.request({"epochs": 3, "permits": permits, "checkpoint_every": 1000})
        await in_epoch(projector, job_id, 1)
        await installation.pause(job_id)
        await installation.resume(job_id)
        installation.permits(3, "withdrawn")
        job = await over(projector, job_id)
        assert (job.status, job.metrics["total"]) == (Status.COMPLETED, 6.0)

    async def test_a_child_that_does_not_leave_is_killed_after_its_grace(self, shared: Shared) -> None:
        installation, projector = shared
        job_id = await installation.request({"epochs": 3, "deed": "hang"})
        await in_epoch(projector, job_id, 1)
        await installation.stop(job_id)
        job = await over(projector, job_id)
        assert job.status is Status.STOPPED
        assert len(projector.records(job_id, JobStopped)) == 1


class TestStoredThings:
    async def test_the_two_newest_checkpoints_are_kept(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(6, "kept")
        job_id = await installation.request({"epochs": 7, "permits": permits})
        await in_epoch(projector, job_id, 6)

        async def names() -> set[str]:
            return {info.key.rpartition("/")[2] async for info in installation.store.list(f"jobs/{job_id}")}

        expected = {f"checkpoint-{epoch}-0.safetensors" for epoch in (5, 6)}
        while await names() != expected:  # noqa: ASYNC110 — The test's own time limit ends it.
            await asyncio.sleep(0.05)
        installation.permits(7, "kept")
        await over(projector, job_id)

    async def test_an_unreadable_checkpoint_is_struck_and_the_one_before_it_is_used(self, shared: Shared) -> None:
        installation, projector = shared
        permits = installation.permits(3, "struck")
        job_id = await installation.request({"epochs": 4, "permits": permits})
        await projector.until(lambda: len(projector.records(job_id, CheckpointSaved)) == 3)
        await installation.pause(job_id)
        await projector.until(lambda: projector.records(job_id, JobPaused))
        job = projector.job(job_id)
        assert job is not None
        newest, before = job.checkpoints[-1].checkpoint, job.checkpoints[-2].checkpoint
        await installation.store.put(newest.uri, b"rotten")
        installation.permits(4, "struck")
        await installation.resume(job_id)
        job = await over(projector, job_id)
        (lost,) = projector.records(job_id, AttemptLost)
        assert (lost.reason, lost.checkpoint) == ("checkpoint_unreadable", newest)
        assert projector.records(job_id, AttemptStarted)[-1].checkpoint == before
        assert (job.status, job.metrics["total"]) == (Status.COMPLETED, 10.0)

    async def test_a_job_is_handed_back_while_the_store_is_away(self, shared: Shared) -> None:
        installation, projector = shared
        folder = installation.folder / "objects"
        away = folder.rename(installation.folder / "elsewhere")
        job_id = await installation.request({"epochs": 1})
        await projector.until(lambda: projector.records(job_id, AttemptLost))
        away.rename(folder)
        job = await over(projector, job_id)
        assert {event.reason for event in projector.records(job_id, AttemptLost)} == {"released"}
        assert (job.status, job.losses) == (Status.COMPLETED, 0)
