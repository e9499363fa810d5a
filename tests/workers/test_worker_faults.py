"""Workers that are killed, frozen or told to go: their jobs finish elsewhere, and what they say too late does not count."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any

import psutil
import pytest
import pytest_asyncio

from domain.events import (
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
    EpochCompleted,
    ModelRegistered,
)
from domain.job import Job, Status
from domain.refusal import Refusal
from schemas import heartbeat
from schemas.topics import HEARTBEATS
from tests.workers.conftest import installed
from tests.workers.installation import LEASE, Installation, Service, tabular_csv
from tests.workers.reading import read_topic
from tests.workers.small_projector import SmallProjector

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]


class Fleet:
    """A supervisor, and two workers that are ready whenever a test asks."""

    def __init__(self, installation: Installation, projector: SmallProjector) -> None:
        self.installation = installation
        self.projector = projector
        self.supervisor = installation.start("supervisor")
        self.workers: list[Service] = []

    async def ready(self) -> None:
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        while len(self.workers) < 2:
            self.workers.append(self.installation.start("worker"))
        for worker in self.workers:
            await worker.until_says('"ready"', 200)

    def worker_of(self, job_id: str) -> Service:
        """Who holds the job."""
        job = self.projector.job(job_id)
        assert job is not None
        return next(worker for worker in self.workers if worker.worker_id == job.worker)

    async def over(self, job_id: str) -> Job:
        """The job, once it is over."""
        found = await self.projector.until(lambda: (job := self.projector.job(job_id)) and job.is_over and job, 200)
        assert isinstance(found, Job)
        return found

    async def saved(self, job_id: str, checkpoints: int) -> None:
        """Until so many of its checkpoints count."""
        await self.projector.until(lambda: len(self.projector.records(job_id, CheckpointSaved)) >= checkpoints, 200)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_fleet(
    tmp_path_factory: pytest.TempPathFactory, kafka_settings: Mapping[str, str]
) -> AsyncIterator[Fleet]:
    async with (
        installed(tmp_path_factory.mktemp("fleet"), kafka_settings) as made,
        SmallProjector(made.settings.kafka) as judging,
    ):
        await made.add_dataset(tabular_csv())
        fleet = Fleet(made, judging)
        yield fleet
        assert fleet.supervisor.process.poll() is None, fleet.supervisor.said


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(whole_fleet: Fleet) -> Fleet:
    await whole_fleet.ready()
    return whole_fleet


class TestTwoWorkers:
    async def test_they_share_the_queue_and_every_job_is_trained_once(self, fleet: Fleet) -> None:
        jobs = [await fleet.installation.request({"epochs": 2}) for _ in range(6)]
        for job_id in jobs:
            assert (await fleet.over(job_id)).status is Status.COMPLETED
            assert len(fleet.projector.records(job_id, AttemptStarted)) == 1
            assert len(fleet.projector.records(job_id, ModelRegistered)) == 1
        holders = {fleet.projector.records(job_id, AttemptStarted)[0].worker for job_id in jobs}
        assert holders == {worker.worker_id for worker in fleet.workers}

    async def test_an_urgent_claim_by_both_is_decided_by_the_log(self, fleet: Fleet) -> None:
        """Nobody judges while a third worker's claim and theirs are under way."""
        fleet.projector.pause()
        job_id = await fleet.installation.request({"epochs": 1})
        stranger = AttemptStarted(attempt=1, worker="worker-stranger")
        await fleet.installation.append(stranger, job_id, actor="worker-stranger")
        fleet.projector.go_on()
        # It never sent a heartbeat: one lease after its claim was seen it counts as silent, and another takes over.
        job = await fleet.over(job_id)
        (lost,) = fleet.projector.records(job_id, AttemptLost)
        assert (lost.worker, lost.reason) == ("worker-stranger", "lease_expired")
        assert (job.status, job.attempt) == (Status.COMPLETED, 2)
        for refused in fleet.projector.records(job_id, AttemptStarted, refused=True):
            assert refused.attempt == 1


class TestKilledWorker:
    async def test_its_job_goes_on_elsewhere_and_ends_bit_for_bit_like_one_that_nothing_happened_to(
        self, fleet: Fleet
    ) -> None:
        parameters = {"target": "label", "epochs": 60, "checkpoint_every": 1, "seed": 7}
        calm = await fleet.installation.request(parameters, recipe="tabular")
        await fleet.over(calm)
        killed = await fleet.installation.request(parameters, recipe="tabular")
        await fleet.saved(killed, 5)
        victim = fleet.worker_of(killed)
        trainers = victim.children()
        victim.send(signal.SIGKILL)
        job = await fleet.over(killed)
        assert job.status is Status.COMPLETED
        first, second = fleet.projector.records(killed, AttemptStarted)
        assert second.worker != first.worker
        assert second.checkpoint is not None
        assert second.checkpoint.epoch >= 5
        assert curve(fleet, killed) == curve(fleet, calm)
        assert weights(fleet, killed) == weights(fleet, calm)
        assert not [pid for pid in trainers if psutil.pid_exists(pid)]


class TestFrozenWorker:
    async def test_it_finds_its_job_gone_when_it_wakes_and_its_late_records_do_not_count(self, fleet: Fleet) -> None:
        permits = fleet.installation.permits(1, "frozen")
        job_id = await fleet.installation.request({"epochs": 4, "permits": permits})
        await fleet.saved(job_id, 1)
        frozen = fleet.worker_of(job_id)
        frozen.send(signal.SIGSTOP)
        # Its child goes on: there will be epochs to report for an attempt that is over.
        fleet.installation.permits(4, "frozen")
        job = await fleet.over(job_id)
        assert (job.status, job.attempt, job.metrics["total"]) == (Status.COMPLETED, 2, 10.0)
        frozen.send(signal.SIGCONT)
        await frozen.until_says("not ours any more")
        late = EpochCompleted(attempt=1, worker=frozen.worker_id, epoch=2, metrics={})
        id = await fleet.installation.append(late, job_id, actor=frozen.worker_id)
        verdict = await fleet.projector.until(lambda: next((v for v in fleet.projector.verdicts if v.id == id), None))
        assert verdict.refusal is Refusal.FENCED
        assert fleet.projector.job(job_id) == job
        (lost,) = fleet.projector.records(job_id, AttemptLost)
        assert lost.reason == "lease_expired"

    async def test_a_short_freeze_costs_nothing(self, fleet: Fleet) -> None:
        permits = fleet.installation.permits(1, "nap")
        job_id = await fleet.installation.request({"epochs": 3, "permits": permits})
        await fleet.saved(job_id, 1)
        worker = fleet.worker_of(job_id)
        worker.send(signal.SIGSTOP)
        await asyncio.to_thread(psutil.Process(worker.process.pid).status)
        fleet.installation.permits(3, "nap")
        worker.send(signal.SIGCONT)
        job = await fleet.over(job_id)
        assert (job.status, job.attempt) == (Status.COMPLETED, 1)


class TestWorkerToldToGo:
    async def test_it_saves_hands_back_says_goodbye_and_another_goes_on(self, fleet: Fleet) -> None:
        permits = fleet.installation.permits(2, "leaving")
        job_id = await fleet.installation.request({"epochs": 4, "permits": permits, "checkpoint_every": 1000})
        await fleet.projector.until(lambda: (job := fleet.projector.job(job_id)) and job.worker and job.epoch == 2)
        leaver = fleet.worker_of(job_id)
        leaver.send(signal.SIGTERM)
        assert await leaver.until_ended(20) == 0
        (saved,) = fleet.projector.records(job_id, CheckpointSaved)
        (lost,) = fleet.projector.records(job_id, AttemptLost)
        assert (lost.reason, lost.worker) == ("released", leaver.worker_id)
        assert await last_state(fleet, leaver.worker_id) == "gone"
        fleet.installation.permits(4, "leaving")
        job = await fleet.over(job_id)
        assert (job.status, job.losses, job.metrics["total"]) == (Status.COMPLETED, 0, 10.0)
        assert fleet.projector.records(job_id, AttemptStarted)[1].checkpoint == saved.checkpoint()


def curve(fleet: Fleet, job_id: str) -> dict[int, Mapping[str, float]]:
    """Metrics by epoch, those that count last."""
    return {event.epoch: event.metrics for event in fleet.projector.records(job_id, EpochCompleted)}


def weights(fleet: Fleet, job_id: str) -> str:
    (model,) = fleet.projector.records(job_id, ModelRegistered)
    found: str = next(file.sha256 for file in model.files if file.name.endswith(".safetensors"))
    return found


async def last_state(fleet: Fleet, worker: str) -> Any:
    async with asyncio.timeout(10 * LEASE):
        async for record in read_topic(fleet.installation.settings.kafka, HEARTBEATS, key=worker):
            state = heartbeat.decode(record.value).state
            if state == "gone":
                return state
    return None
