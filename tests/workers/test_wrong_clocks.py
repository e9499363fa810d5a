"""Clocks that are hours wrong, each in another direction: nobody loses an attempt for that, and a lost one is still noticed."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from domain.events import AttemptLost, AttemptStarted, EpochCompleted
from domain.job import Status
from tests.workers.installation import Installation, Service
from tests.workers.small_projector import SmallProjector

pytestmark = pytest.mark.timeout(400)


@pytest_asyncio.fixture(params=[1, -1], ids=["supervisor ahead", "supervisor behind"])
async def off(request: pytest.FixtureRequest, installation: Installation) -> AsyncIterator[tuple[Service, Service]]:
    """A supervisor and a worker, two hours apart."""
    supervisor = installation.start("supervisor", hours_off=request.param)
    worker = installation.start("worker", hours_off=-request.param)
    await worker.until_says('"ready"', 200)
    yield supervisor, worker
    assert supervisor.process.poll() is None, supervisor.said


async def test_a_job_is_trained_in_one_attempt_and_a_killed_worker_is_noticed(
    installation: Installation, projector: SmallProjector, off: tuple[Service, Service]
) -> None:
    permits = installation.permits(3)
    first = await installation.request({"epochs": 3, "permits": permits})
    await projector.until(lambda: (job := projector.job(first)) and job.status is Status.COMPLETED, 100)
    assert not projector.records(first, AttemptLost)

    second = await installation.request({"epochs": 8, "permits": permits})
    await projector.until(lambda: len(projector.records(second, EpochCompleted)) >= 3, 100)
    off[1].send(signal.SIGKILL)
    installation.permits(8)
    installation.start("worker")
    await projector.until(lambda: (job := projector.job(second)) and job.status is Status.COMPLETED, 200)
    assert len(projector.records(second, AttemptLost)) == 1
    assert len(projector.records(second, AttemptStarted)) == 2
