"""The broker dies in the middle of training: nobody is lost, nothing is lost, and training does not even pause."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import workers.worker
from domain.events import AttemptLost, AttemptStarted, EpochCompleted
from domain.job import Status
from ops.embedded import AskedPorts, choose_ports, kafka_of
from ops.keeper import Keeper
from ops.state_folder import StateFolder
from tests.workers.conftest import installed
from tests.workers.installation import LEASE, Installation
from tests.workers.scripted_children import ScriptedChildren
from tests.workers.small_projector import SmallProjector
from workers.child_messages import EpochDone, Leave
from workers.worker import Worker

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Keeper, dict[str, str]]]:
    """One of this test's own, to kill."""
    state = StateFolder.open(tmp_path_factory.mktemp("broker") / "state")
    server = kafka_of(state, choose_ports(state, AskedPorts()))
    keeper = Keeper(server, state.logs)
    await keeper.start()
    yield keeper, server.client_settings()
    await keeper.stop()


@pytest.fixture
async def own(tmp_path: Path, broker: tuple[Keeper, dict[str, str]]) -> AsyncIterator[Installation]:
    async with installed(tmp_path, broker[1]) as made:
        yield made


async def test_training_goes_on_while_the_broker_is_away_and_everything_is_reported_afterwards(
    own: Installation, broker: tuple[Keeper, dict[str, str]]
) -> None:
    keeper, _ = broker
    async with SmallProjector(own.settings.kafka) as projector:
        supervisor, worker = own.start("supervisor"), own.start("worker")
        job_id = await own.request({"epochs": 6, "permits": own.permits(2), "checkpoint_every": 1})
        await projector.until(lambda: (job := projector.job(job_id)) and job.worker and job.epoch == 2, 200)
        assert keeper.identity is not None
        await keeper.forget()  # Else it would be back at once.
        keeper.identity.send(signal.SIGKILL)
        # Three more epochs are trained meanwhile: the last one's checkpoint is in the store before the log is back.
        own.permits(5)
        async with asyncio.timeout(60):
            while await own.store.head(f"jobs/{job_id}/1/checkpoint-5-0.safetensors") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for service in (worker, supervisor):
            await service.until_says("Kafka does not answer", 60)
        # Longer than the lease: nobody may be lost for what the broker did.
        await asyncio.sleep(1.5 * LEASE)
        await keeper.start()
        own.permits(6)
        await projector.until(lambda: (job := projector.job(job_id)) and job.is_over, 200)
        job = projector.job(job_id)
        assert job is not None
        assert (job.status, job.attempt, job.metrics["total"]) == (Status.COMPLETED, 1, 21.0), worker.said
        assert [event.epoch for event in projector.records(job_id, EpochCompleted)] == [1, 2, 3, 4, 5, 6]
        assert projector.records(job_id, AttemptLost) == []
        after = await own.request({"epochs": 1})
        await projector.until(lambda: (job := projector.job(after)) and job.is_over, 200)
        assert len(projector.records(after, AttemptStarted)) == 1
        assert supervisor.process.poll() is None


async def test_a_worker_that_is_told_to_go_while_the_broker_is_away_goes_in_time(
    own: Installation, broker: tuple[Keeper, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.worker, "WORKER_LEAVES_IN", 5.0)
    keeper, _ = broker
    children = ScriptedChildren()
    worker, stop = Worker(own.settings, children), asyncio.Event()
    async with SmallProjector(own.settings.kafka) as projector:
        supervisor = own.start("supervisor")
        working = asyncio.create_task(worker.run(stop))
        job_id = await own.request({"epochs": 3}, recipe="tabular")
        child = await children.until_taken(1)
        child.says(EpochDone(epoch=1, metrics={"loss": 1.0}, seconds=0.1))
        await projector.until(lambda: (job := projector.job(job_id)) and job.worker and job.epoch == 1)
        await keeper.stop()
        stop.set()
        async with asyncio.timeout(15):
            await working
        assert Leave() in child.heard
        await worker.close()
        await keeper.start()
        await projector.until(lambda: projector.records(job_id, AttemptLost), 30 * LEASE)
        assert supervisor.process.poll() is None
        job = projector.job(job_id)
        assert job is not None
        assert job.status is Status.QUEUED
