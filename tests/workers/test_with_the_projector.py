"""The services together: projector, worker and supervisor, on the real log and the real database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.migrations import migrate
from domain.events import AttemptLost, ModelRegistered
from domain.job import Status
from tests.workers.installation import Installation
from tests.workers.small_projector import SmallProjector

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def onlooker(installation: Installation) -> AsyncIterator[SmallProjector]:
    """Judges the same log without publishing anything: what it says must be what the services come to."""
    async with SmallProjector(installation.settings.kafka, publishes=False) as looking_on:
        yield looking_on


async def status_of(database_url: str, job_id: str) -> str | None:
    connection = await asyncpg.connect(database_url)
    try:
        found: str | None = await connection.fetchval("SELECT status FROM read.jobs WHERE job_id = $1", job_id)
        return found
    finally:
        await connection.close()


async def test_a_job_lives_through_the_deaths_of_the_projector_and_of_its_worker(
    installation: Installation, onlooker: SmallProjector, database_url: str
) -> None:
    await migrate(database_url)
    projector = installation.start("projector", RAVAND_DATABASE__URL=database_url)
    supervisor, worker = installation.start("supervisor"), installation.start("worker")
    permits = installation.permits(1)
    job_id = await installation.request({"epochs": 4, "permits": permits})
    await onlooker.until(lambda: (job := onlooker.job(job_id)) and job.worker and job.epoch == 1, 200)

    projector.send(signal.SIGKILL)
    await projector.until_ended()
    installation.permits(2)
    projector = installation.start("projector", RAVAND_DATABASE__URL=database_url)
    await onlooker.until(lambda: (job := onlooker.job(job_id)) and job.epoch == 2, 60)

    other = installation.start("worker")
    await other.until_says('"ready"', 200)
    worker.send(signal.SIGKILL)
    installation.permits(4)
    await onlooker.until(lambda: onlooker.records(job_id, ModelRegistered), 100)

    job = onlooker.job(job_id)
    assert job is not None
    assert (job.status, job.attempt, job.metrics["total"]) == (Status.COMPLETED, 2, 10.0)
    (lost,) = onlooker.records(job_id, AttemptLost)
    assert lost.reason == "lease_expired"
    async with asyncio.timeout(30):
        while await status_of(database_url, job_id) != "completed":  # noqa: ASYNC110 — Nothing tells of it.
            await asyncio.sleep(0.05)
    for service in (supervisor, other, projector):
        service.send(signal.SIGTERM)
        assert await service.until_ended(20) == 0, service.said
