"""Installations to back up and to restore into: topics, a database and a store of their own, on the servers of the run."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition

from adapters.kafka import producer, topic_name
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from backup.take import take
from schemas.topics import EVENTS
from tests.api.platform import initialise, settings_for
from tests.projections.conftest import database_template, log, settings
from tests.projections.platform import Log, project
from tests.projections.records import Written, stream
from tests.servers import Servers, in_thread

__all__ = ["database_template", "log", "settings"]
WORKSPACES = [f"team-{number}" for number in range(5)]
Make = Callable[[str], Settings]


@dataclass
class Fresh:
    """Makes settings of installations that are not there yet, and takes their databases and topics away in the end."""

    servers: Servers
    folder: Path
    names: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> Settings:
        unique = f"{name}_{uuid.uuid4().hex[:8]}"
        self.names.append(unique)
        self.servers.create_database(unique)
        url = self.servers.database_url(unique)
        return settings_for(self.servers.kafka, f"{unique}.", url, self.folder / unique)

    def clear(self) -> None:
        for name in self.names:
            self.servers.drop_database(name)
            self.servers.delete_topics(f"{name}.")


@pytest.fixture(scope="module")
def fresh(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """Installations for the tests of a module."""
    made = Fresh(servers, tmp_path_factory.mktemp("installations"))
    yield made
    made.clear()


@pytest.fixture(scope="module")
def source(fresh: Fresh) -> Settings:
    """One with records of every kind, an account, measurements and objects, all of it folded."""
    settings = fresh("source")
    in_thread(_fill(settings))
    return settings


@pytest.fixture(scope="module")
def taken(source: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it, which tests only read."""
    folder = tmp_path_factory.mktemp("backups") / "taken"
    in_thread(take(source, folder))
    return folder


async def _fill(settings: Settings) -> None:
    await initialise(settings)
    async with Log.of(settings) as log:
        await log.write(stream(3, WORKSPACES, 400))
        await log.write([Written(None, None, (), 3), Written(b"team-1", b"no document", (("x", None),), 3)])
        await _append_odd_ones(settings)
        await log.write(stream(4, WORKSPACES, 50))
        await project(log)
        await _add_rows(log.database)
        store = ObjectStore(settings.store.url)
        for number in range(5):
            await store.put(f"datasets/{number}", bytes([number]) * 100_000 * number)
        await store.close()


async def _append_odd_ones(settings: Settings) -> None:
    """What only foreign programs write: a value longer than our batches, and a transaction, whose mark takes an offset."""
    topic = topic_name(settings.kafka, EVENTS)
    packed = producer(settings.kafka, compression_type="gzip", max_request_size=2**23, max_batch_size=2**23)
    marking = producer(settings.kafka, transactional_id=f"foreign-{uuid.uuid4()}")
    try:
        await packed.start()
        await packed.send_and_wait(topic, b"x" * 3 * 2**20, key=b"team-1", partition=3)
        await marking.start()
        async with marking.transaction():
            await marking.send(topic, b"committed", key=b"team-2", partition=3)
        await marking.begin_transaction()
        await marking.send(topic, b"aborted", key=b"team-2", partition=3)
        await marking.abort_transaction()
        await packed.send_and_wait(topic, b"the last", key=b"team-1", partition=3)
    finally:
        await packed.stop()
        await marking.stop()


async def _add_rows(database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO accounts.users (id, email, email_key, name, password_hash, role) VALUES"
        " ('u-1', 'Ada@example.org', 'ada@example.org', 'Ada', 'hash', 'admin')"
    )
    await database.execute("INSERT INTO accounts.workspaces (id, name, kind) VALUES ('team-1', 'Team', 'team')")
    await database.execute("INSERT INTO accounts.memberships VALUES ('u-1', 'team-1', 'owner')")
    await database.execute(
        "INSERT INTO accounts.sessions (id, user_id, workspace_id, expires_at) VALUES ('s-1', 'u-1', 'team-1', now())"
    )
    await database.execute(
        "INSERT INTO telemetry.step_metrics VALUES ('team-1', 'j', 1, 1, 5, 1, 10, '\\x00ff')",
    )


@dataclass
class Held:
    """All that an installation holds."""

    log: list[tuple[Any, ...]]
    rows: dict[str, list[tuple[Any, ...]]]
    objects: dict[str, str]
    log_id: str


ROWS = (
    *("log.cursors", "log.journal", "log.requests", "log.workspaces"),
    *("read.jobs", "read.epochs", "read.checkpoints", "read.datasets", "read.models"),
    *("accounts.users", "accounts.workspaces", "accounts.memberships", "telemetry.step_metrics"),
)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def held(settings: Settings) -> Held:
    """Read from Kafka, PostgreSQL and the store as anybody would."""
    async with Log.of(settings) as log:
        records = [
            (r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in await log.read(EVENTS)
        ]
    async with _database(settings) as database:
        rows = {}
        for table in ROWS:
            columns = "partition, next_offset, rules, chain" if table == "log.cursors" else "*"
            found = await database.fetch(f"SELECT {columns} FROM {table} AS t ORDER BY t::text")
            rows[table] = [tuple(row) for row in found if table != "log.cursors" or row["next_offset"]]
        log_id = str(await database.fetchval("SELECT log_id FROM log.history"))
    store = ObjectStore(settings.store.url)
    try:
        objects = {info.key: hashlib.sha256(await store.get(info.key)).hexdigest() async for info in store.list()}
    finally:
        await store.close()
    return Held(records, rows, objects, log_id)


async def end_of(settings: Settings, partition: int) -> int:
    """The end of one partition of the log."""
    async with Log.of(settings) as log:
        at = TopicPartition(topic_name(settings.kafka, EVENTS), partition)
        return (await log.ends(EVENTS))[at.partition]
