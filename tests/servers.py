"""One real broker and one real PostgreSQL for a test run, shared by its processes; a database for each test.

A pytest plugin: name it in `pytest_plugins` of `tests/conftest.py`. The servers are a process of their own,
`ops.dev_servers`, that ends when no process of the run holds the lock any more: also after a crash or a kill.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from adapters.settings import KafkaSettings


@dataclass(frozen=True)
class Servers:
    """How to join the pair, and where it keeps its data."""

    settings: Mapping[str, str]
    folder: Path

    @property
    def kafka(self) -> dict[str, str]:
        """The values of `RAVAND_KAFKA__*`."""
        return {name: value for name, value in self.settings.items() if name.startswith("RAVAND_KAFKA__")}

    @property
    def admin_url(self) -> str:
        """PostgreSQL's superuser."""
        return self.settings["RAVAND_DATABASE_ADMIN_URL"]

    def database_url(self, database: str) -> str:
        """The services' role, in that database."""
        return self.settings["RAVAND_DATABASE__URL"].rpartition("/")[0] + f"/{database}"

    def create_database(self, name: str, template: str = "template1") -> None:
        """Of the services' role."""
        # Files are copied as they are: a sixth of the CPU of the default, which writes every page to the write-ahead log.
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY OWNER ravand')

    def drop_database(self, name: str) -> None:
        """Whoever is connected to it loses the connection."""
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def delete_topics(self, prefix: str) -> None:
        """All whose names begin so."""
        in_thread(delete_topics(self.kafka, prefix))

    def _execute(self, statement: str) -> None:
        in_thread(_execute(self.admin_url, statement))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Servers]:
    """The pair of this run; whichever of its processes comes first starts it."""
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent
    with (folder / "servers.users").open("a") as users, (folder / "servers.starting").open("a") as starting:
        fcntl.flock(users, fcntl.LOCK_SH)  # As long as we hold it, the servers live.
        fcntl.flock(starting, fcntl.LOCK_EX)
        settings = folder / "servers.settings"
        if not settings.exists():
            settings.write_text(_start(folder))
        fcntl.flock(starting, fcntl.LOCK_UN)
        lines = settings.read_text().splitlines()
        yield Servers(dict(line.split("=", 1) for line in lines), (folder / "servers").resolve())


def _start(folder: Path) -> str:
    data, memory = folder / "servers", Path("/dev/shm")
    # A topic and a database are mostly files made and deleted: in memory, where there is plenty, a test with a log takes a
    # seventh less of the CPU, and nobody waits for the disk.
    if memory.is_dir() and shutil.disk_usage(memory).free > 8 * 2**30:
        data.symlink_to(tempfile.mkdtemp(prefix="ravand-tests-", dir=memory))
    command = [sys.executable, "-m", "ops.dev_servers", str(data.resolve()), "--volatile", "--temporary"]
    with (folder / "servers.log").open("a") as log:
        process = subprocess.Popen(
            [*command, "--while-locked", str(folder / "servers.users")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parent.parent,
        )
    assert process.stdout is not None
    with process.stdout as said:
        lines: list[str] = []
        for line in said:
            if line == "ready\n":
                process.returncode = 0  # It outlives us if others still need it, so nobody waits for its end.
                return "".join(lines)
            lines.append(line)
    process.wait()
    pytest.fail(f"the servers did not start: {(folder / 'servers.log').read_text()}", pytrace=False)


@pytest.fixture(scope="session")
def kafka_server(servers: Servers) -> str:
    """The broker's `host:port`; see `kafka_settings` for the rest of what a client needs."""
    return servers.settings["RAVAND_KAFKA__BOOTSTRAP_SERVERS"]


@pytest.fixture(scope="session")
def kafka_settings(servers: Servers) -> dict[str, str]:
    """`RAVAND_KAFKA__*`, as the services are given them. The broker is shared: give topics names of their own."""
    return servers.kafka


@pytest.fixture
def topic_prefix(servers: Servers) -> Iterator[str]:
    """A prefix (`RAVAND_KAFKA__PREFIX`) of its own for one test's topics, on the broker that all share."""
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    yield prefix
    servers.delete_topics(prefix)


def kafka_settings_of(environment: Mapping[str, str], prefix: str) -> KafkaSettings:
    """`RAVAND_KAFKA__*` as a service reads them."""
    from adapters.settings import Settings

    named = {name.removeprefix("RAVAND_KAFKA__").lower(): value for name, value in environment.items()}
    return Settings.model_validate({"kafka": {**named, "prefix": prefix}}).kafka


async def delete_topics(kafka: Mapping[str, str], prefix: str) -> None:
    """Delete what a test left on the shared broker.

    An installation is 57 partitions, about a megabyte of the broker's heap. After some 120 of them nothing is left of it,
    and the broker stands still for seconds at a time, in one full collection after another: measured, with its log.
    """
    from bench import own_servers

    await own_servers.delete_topics(kafka_settings_of(kafka, prefix))


async def delete_topic(admin: AIOKafkaAdminClient, name: str) -> None:
    """Delete it, and wait until the broker has heard of it: later than the controller, and meanwhile it takes records."""
    await admin.delete_topics([name])
    async with asyncio.timeout(60):
        while (await admin.describe_topics([name]))[0]["partitions"]:  # noqa: ASYNC110 — There is nothing to be told by.
            await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def postgres_server(servers: Servers) -> str:
    """The URL of PostgreSQL's superuser."""
    return servers.admin_url


@pytest.fixture(scope="session")
def database_template(postgres_server: str) -> str:
    """The database that each test gets a copy of: empty. Override it with one that the migrations were run in."""
    return "template1"


@pytest.fixture
def database_url(servers: Servers, database_template: str) -> Iterator[str]:
    """A database of its own for one test, owned by the services' role."""
    name = f"test_{uuid.uuid4().hex}"
    servers.create_database(name, database_template)
    yield servers.database_url(name)
    servers.drop_database(name)


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def in_thread(work: Coroutine[Any, Any, object]) -> None:
    """In a thread of its own, so that the loop that pytest-asyncio set for this one stays untouched."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
