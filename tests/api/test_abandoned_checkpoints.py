"""Checkpoints that no worker could delete are deleted once their job is over; nothing that a retry needs ever is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from adapters.checkpoint_keys import key_of
from adapters.object_store import ObjectStore, StoreUnavailable
from api.abandoned_checkpoints import AbandonedCheckpoints
from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    EpochCompleted,
    Event,
    JobCompleted,
    JobFailed,
    JobStopped,
)
from tests.api.platform import Member, Platform
from tests.api.worker_by_hand import WORKER, WorkerByHand, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def store(platform: Platform) -> AsyncIterator[ObjectStore]:
    made = ObjectStore(platform.settings.store.url)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def pool(platform: Platform) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(platform.settings.database.url.get_secret_value(), min_size=1) as made:
        yield made


def began(attempt: int = 1, checkpoint: Checkpoint | None = None) -> AttemptStarted:
    return AttemptStarted(attempt=attempt, worker=WORKER, checkpoint=checkpoint)


def saved(job: str, epoch: int, attempt: int = 1, *, best: bool = False) -> CheckpointSaved:
    uri = key_of(job, attempt, epoch, 0)
    return CheckpointSaved(attempt=attempt, worker=WORKER, epoch=epoch, step=0, uri=uri, sha256="0" * 64, best=best)


def epochs_of(job: str, epochs: range, attempt: int = 1, best: int = 0) -> list[Event]:
    """Epochs, each with its checkpoint."""
    return [
        event
        for epoch in epochs
        for event in (
            EpochCompleted(attempt=attempt, worker=WORKER, epoch=epoch, metrics={"loss": 1.0}),
            saved(job, epoch, attempt, best=epoch == best),
        )
    ]


class Folder:
    """The objects of a job of somebody's."""

    def __init__(self, store: ObjectStore, platform: Platform, job: str, workspace: str) -> None:
        self.job = job
        self._store = store
        self._worker = WorkerByHand(platform.settings, workspace)

    async def say(self, *events: Event) -> None:
        """Append, and put the checkpoints there that the records name."""
        for event in events:
            if isinstance(event, CheckpointSaved):
                await self._store.put(event.uri, b"weights")
        await self._worker.say(self.job, *events)

    async def put(self, epoch: int, attempt: int = 1) -> None:
        """A checkpoint that no record names."""
        await self._store.put(key_of(self.job, attempt, epoch, 0), b"weights")

    async def files(self) -> set[str]:
        """By attempt and epoch: `1-20`."""
        keys = [info.key async for info in self._store.list(f"jobs/{self.job}")]
        return {f"{key.split('/')[2]}-{key.split('-')[-2]}" if "checkpoint" in key else key for key in keys}


@pytest_asyncio.fixture(loop_scope="module")
async def folder(store: ObjectStore, platform: Platform, member: Member, pool: asyncpg.Pool) -> Folder:
    job = await member.job()
    workspace = await pool.fetchval("SELECT workspace FROM read.jobs WHERE job_id = $1", job)
    return Folder(store, platform, job, workspace)


async def test_of_a_job_that_is_over_the_two_newest_and_the_best_are_left(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member
) -> None:
    await folder.say(began(), *epochs_of(folder.job, range(1, 10), best=3))
    await folder.put(10)  # Whoever saved it was fenced, or killed, before it was reported.
    await store.put(f"jobs/{folder.job}/1/log.txt", b"last words")
    await folder.say(JobCompleted(attempt=1, worker=WORKER, last_epoch=9))
    await until(member, folder.job, "completed")
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == {"1-3", "1-8", "1-9", f"jobs/{folder.job}/1/log.txt"}


async def test_a_job_that_is_not_over_is_left_alone(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member
) -> None:
    await folder.say(began(), *epochs_of(folder.job, range(1, 7)))
    await until(member, folder.job, "running")
    everything = await folder.files()
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == everything == {f"1-{epoch}" for epoch in range(1, 7)}


async def test_what_a_retry_saves_that_the_rows_do_not_show_yet_is_left_alone(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member
) -> None:
    await folder.say(began(), *epochs_of(folder.job, range(1, 6)), JobFailed(attempt=1, worker=WORKER, code="diverged"))
    await until(member, folder.job, "failed")
    await folder.put(6, attempt=2)
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == {"1-4", "1-5", "2-6"}


async def test_one_that_could_not_be_read_is_not_kept_instead_of_an_older_one(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member
) -> None:
    newest = saved(folder.job, 4).checkpoint()
    await folder.say(
        *(began(), *epochs_of(folder.job, range(1, 5)), AttemptLost(attempt=1, worker=WORKER, reason="released")),
        began(2, newest),
        AttemptLost(attempt=2, worker=WORKER, reason="checkpoint_unreadable", checkpoint=newest),
        began(3, saved(folder.job, 3).checkpoint()),
    )
    assert (await member.http.post("/api/train/stop", json={"job_id": folder.job})).status_code == 200
    await folder.say(JobStopped(attempt=3, worker=WORKER))
    await until(member, folder.job, "stopped")
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == {"1-2", "1-3"}


async def test_after_a_fresh_retry_those_before_it_are_gone(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member
) -> None:
    await folder.say(began(), *epochs_of(folder.job, range(1, 6)), JobFailed(attempt=1, worker=WORKER, code="diverged"))
    await until(member, folder.job, "failed")
    answer = await member.http.post("/api/train/retry", json={"job_id": folder.job, "fresh": True})
    assert answer.status_code == 200
    await folder.say(
        *(began(2), *epochs_of(folder.job, range(1, 3), attempt=2)),
        JobCompleted(attempt=2, worker=WORKER, last_epoch=2),
    )
    await until(member, folder.job, "completed")
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == {"2-1", "2-2"}


async def test_it_looks_once_an_hour(folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member) -> None:
    seconds = 0.0
    abandoned = AbandonedCheckpoints(pool, store, lambda: seconds)
    await abandoned.tidy()
    await folder.say(began(), *epochs_of(folder.job, range(1, 6)), JobFailed(attempt=1, worker=WORKER, code="diverged"))
    await until(member, folder.job, "failed")
    seconds = 3_599.0
    await abandoned.tidy()
    assert len(await folder.files()) == 5
    seconds = 3_600.0
    await abandoned.tidy()
    assert len(await folder.files()) == 2


async def test_a_store_that_is_away_keeps_everything_until_the_next_time(
    folder: Folder, store: ObjectStore, pool: asyncpg.Pool, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    await folder.say(began(), *epochs_of(folder.job, range(1, 6)), JobFailed(attempt=1, worker=WORKER, code="diverged"))
    await until(member, folder.job, "failed")

    async def away(key: str) -> None:
        raise StoreUnavailable("the disk is gone")

    with monkeypatch.context() as patched, capture_logs() as said:
        patched.setattr(store, "delete", away)
        await AbandonedCheckpoints(pool, store).tidy()
    assert [line["log_level"] for line in said] == ["warning"]
    await AbandonedCheckpoints(pool, store).tidy()
    assert await folder.files() == {"1-4", "1-5"}
