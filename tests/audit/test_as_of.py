"""Going back in time: whatever is asked for as of a version is what folding the records up to it gives."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from domain.events import EpochCompleted
from domain.history import chain
from domain.workspace import Dataset, Effect, Model, Workspace, judge
from projections import as_of, snapshots
from schemas.envelope import UndecodableRecord, decode
from tests.audit.judged import NOON, STEP_MS, store
from tests.projections.platform import Said, until
from tests.projections.records import stream

SEEDS = range(2)


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=3) as opened:
        yield opened


class Prefix:
    """A workspace folded record by record, as plainly as can be."""

    def __init__(self, name: str) -> None:
        self.workspace = Workspace(name)
        self.datasets: list[Dataset] = []
        self.models: list[Model] = []
        self.requested: dict[str, int] = {}
        self.epochs: dict[tuple[str, int, int], int] = {}

    def take(self, record: Any) -> int | None:
        """The version, if it took effect."""
        said = decode(record.value)
        verdict = judge(
            self.workspace,
            id=said.id,
            subject=said.subject,
            actor=said.actor,
            event=said.data,
            at=record.timestamp,
        )
        if not isinstance(verdict, Effect):
            return None
        if verdict.dataset:
            self.datasets.append(verdict.dataset)
        if verdict.model:
            self.models.append(verdict.model)
        if verdict.job:
            self.requested.setdefault(verdict.job.id, verdict.version)
        if isinstance(said.data, EpochCompleted):
            self.epochs[said.subject, said.data.attempt, said.data.epoch] = verdict.version
        return verdict.version

    def newest_models(self) -> list[Model]:
        """One of each name, newest first."""
        newest = {model.name: model for model in self.models}
        return sorted(newest.values(), key=lambda model: -model.version)

    def curve(self, job_id: str) -> list[tuple[int, int, int]]:
        """(attempt, epoch, version) of the epochs that count."""
        job = self.workspace.jobs[job_id]
        return [
            (segment.attempt, epoch, self.epochs[job_id, segment.attempt, epoch])
            for segment in chain(job.origins)
            for epoch in range(segment.after + 1, (job.epoch if segment.through is None else segment.through) + 1)
        ]


async def check(pool: asyncpg.Pool, name: str, version: int, then: Prefix) -> None:
    """Everything that can be asked for, at this version."""
    jobs = then.workspace.jobs
    newest_first = sorted(jobs.values(), key=lambda job: -then.requested[job.id])
    board = await as_of.jobs_page(pool, name, version, limit=1000)
    assert [row.job for row in board] == newest_first
    assert [row.requested_version for row in board] == [then.requested[job.id] for job in newest_first]
    for status in {job.status.value for job in newest_first} | {"completed"}:
        of_status = [job for job in newest_first if job.status.value == status]
        found = await as_of.jobs_page(pool, name, version, limit=2, status=status)
        assert [row.job for row in found] == of_status[:2]
        if len(of_status) > 2:
            more = await as_of.jobs_page(
                pool, name, version, limit=1, status=status, before=found[-1].requested_version
            )
            assert [row.job for row in more] == of_status[2:3]
    for job in newest_first[:3]:
        assert await as_of.job(pool, name, job.id, version) == job
        epochs = await as_of.history(pool, name, job, version)
        assert [(e.attempt, e.epoch, e.version) for e in epochs] == then.curve(job.id)
    assert await as_of.datasets_page(pool, name, version, limit=1000) == then.datasets[::-1]
    assert await as_of.models_page(pool, name, version, limit=1000) == then.newest_models()
    assert await as_of.model_versions(pool, name, "flowers", version) == [
        model for model in then.models[::-1] if model.name == "flowers"
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kept", ["nothing", "as asked", "beforehand"])
async def test_any_version_of_any_history_is_the_fold_of_its_prefix(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, seed: int, kept: str
) -> None:
    """Without snapshots, with those that reading leaves behind, and with those that are kept beforehand."""
    every = 10_000 if kept == "nothing" else 5
    monkeypatch.setattr(as_of, "EVERY", every)
    monkeypatch.setattr(as_of, "_CHUNK", 7)
    monkeypatch.setattr(snapshots, "EVERY", every)
    monkeypatch.setattr(snapshots, "_CHUNK", 11)
    monkeypatch.setattr(snapshots, "_KEPT_JOBS", 2)
    logs = await store(pool, stream(seed, ["red", "blue"], 160))
    if kept == "beforehand":
        assert await snapshots.catch_up(pool) > 0
        assert await snapshots.catch_up(pool) == 0
    prefixes: dict[str, Prefix] = {}
    seen: dict[str, int] = defaultdict(int)
    for records in logs.values():
        for record in records:
            name = record.key.decode()
            prefix = prefixes.setdefault(name, Prefix(name))
            version = prefix.take(record)
            if version is not None:
                await check(pool, name, version, prefix)
                seen[name] += 1
    assert set(seen) == {"red", "blue"}
    assert min(seen.values()) > 30
    stored = await pool.fetchval("SELECT count(*) FROM audit.job_states")
    assert (stored > 0) == (kept != "nothing")


async def test_snapshots_that_reading_and_keeping_make_are_the_same(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_of, "EVERY", 4)
    monkeypatch.setattr(snapshots, "EVERY", 4)
    await store(pool, stream(9, ["red"], 300))
    query = "SELECT workspace, job_id, version, state FROM audit.job_states ORDER BY 1, 2, 3"
    jobs = [row[0] for row in await pool.fetch("SELECT job_id FROM read.jobs")]
    last = await pool.fetchval("SELECT max(version) FROM log.workspaces")
    await as_of.standings(pool, "red", jobs, last)
    read = [tuple(row) for row in await pool.fetch(query)]
    await snapshots.forget(pool)
    assert await snapshots.catch_up(pool) == len(read) > 0
    assert [tuple(row) for row in await pool.fetch(query)] == read


async def test_a_reader_that_may_not_write_gets_its_answer_too(
    pool: asyncpg.Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_of, "EVERY", 2)
    await store(pool, stream(2, ["red"], 120))
    rows = await pool.fetch("SELECT job_id, requested_version FROM read.jobs ORDER BY requested_version LIMIT 1")
    connection = await asyncpg.connect(database_url, server_settings={"default_transaction_read_only": "on"})
    try:
        found = await as_of.job(connection, "red", rows[0]["job_id"], rows[0]["requested_version"] + 40)
        assert found is not None
        assert await connection.fetchval("SELECT count(*) FROM audit.job_states") == 0
    finally:
        await connection.close()


async def test_a_moment_means_the_last_version_before_it(pool: asyncpg.Pool) -> None:
    [records] = (await store(pool, stream(4, ["red"], 150))).values()
    prefix, reached = Prefix("red"), 0
    for record in records:
        reached = prefix.take(record) or reached
        moment = datetime.fromtimestamp(record.timestamp / 1000, UTC)
        for offset, expected in ((0, reached), (STEP_MS // 2, reached)):
            assert await as_of.resolve(pool, "red", moment + timedelta(milliseconds=offset)) == expected
    before = datetime.fromtimestamp(NOON / 1000 - 1, UTC)
    assert await as_of.resolve(pool, "red", before) == 0
    assert await as_of.resolve(pool, "nobody's", before) == 0


async def test_before_the_first_version_there_is_nothing(pool: asyncpg.Pool) -> None:
    await store(pool, stream(4, ["red"], 60))
    [job] = await pool.fetch("SELECT job_id FROM read.jobs LIMIT 1")
    assert await as_of.job(pool, "red", job["job_id"], 0) is None
    assert await as_of.jobs_page(pool, "red", 0, limit=10) == []
    assert await as_of.datasets_page(pool, "red", 0, limit=10) == []
    assert await as_of.models_page(pool, "red", 0, limit=10) == []


async def test_a_version_that_is_not_reached_is_said_so(pool: asyncpg.Pool) -> None:
    await store(pool, stream(4, ["red"], 60))
    current = await as_of.resolve(pool, "red", datetime.now(UTC) + timedelta(days=40_000))
    with pytest.raises(as_of.NotReached) as raised:
        await as_of.resolve(pool, "red", current + 1)
    assert raised.value.current == current


async def test_another_workspace_has_none_of_it(pool: asyncpg.Pool) -> None:
    await store(pool, stream(4, ["red", "blue"], 100))
    mine = await pool.fetch("SELECT job_id FROM read.jobs WHERE workspace = 'red'")
    for row in mine:
        assert await as_of.job(pool, "blue", row["job_id"], 10) is None


async def test_snapshots_are_kept_again_after_the_database_was_away_and_after_a_row_was_broken(
    pool: asyncpg.Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "EVERY", 3)
    monkeypatch.setattr(snapshots, "_SECONDS", 0.05)
    monkeypatch.setattr(snapshots, "_BROKEN_SECONDS", 0.05)
    said, stop, database = Said(snapshots, monkeypatch), asyncio.Event(), urlsplit(database_url).path[1:]
    await store(pool, stream(4, ["red"], 60))
    await pool.execute("UPDATE log.journal SET value = 'broken ' || value WHERE version = 20")
    await pool.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as keeper:
        keeping = asyncio.create_task(snapshots.keep(keeper, stop))
        [away, *_] = await said.until("PostgreSQL is away")
        assert "TooManyConnections" in away["error"]
        await pool.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        [broken, *_] = await said.until("snapshots cannot be kept")
        assert isinstance(broken["exc_info"], UndecodableRecord)
        await pool.execute("UPDATE log.journal SET value = substr(value, 8) WHERE version = 20")
        await until(lambda: pool.fetchval("SELECT count(*) FROM audit.job_states"))
        stop.set()
        await keeping


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("0", 0),
        ("17", 17),
        ("2026-05-01T12:00:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T14:00:00.250+02:00", datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_version_or_a_moment_is_read(text: str, meaning: object) -> None:
    assert as_of.parse(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "yesterday", "2026-05-01", "2026-05-01T12:00:00", "9" * 30, "٣", "NaN"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(as_of.NoMoment):
        as_of.parse(text)
