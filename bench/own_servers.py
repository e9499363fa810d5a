"""Servers, a database and topics for one measure, gone when it is over."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from adapters.kafka import client_options
from adapters.migrations import migrate
from adapters.settings import KafkaSettings, Settings


@contextlib.contextmanager
def servers() -> Iterator[dict[str, str]]:
    """A broker and a PostgreSQL of their own, and the settings with which a program joins them; gone with us, however we end."""
    with tempfile.NamedTemporaryFile(prefix="ravand-bench-") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        folder = tempfile.mkdtemp(prefix="ravand-bench-")
        server = subprocess.Popen(
            [sys.executable, "-m", "ops.dev_servers", folder, "--temporary", "--while-locked", lock.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            lines = list(itertools.takewhile(lambda line: line != "ready\n", server.stdout))
            yield dict(line.rstrip("\n").split("=", 1) for line in lines)
        finally:
            server.terminate()
            server.wait(60)


def run_beside(environment: Mapping[str, str], module: str, *options: str) -> dict[str, Any]:
    """Run `python -m MODULE OPTIONS`, as its own command does it, in a process of its own; the document that it prints last."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options], env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.asynccontextmanager
async def own_database(settings: Settings) -> AsyncIterator[None]:
    """An empty one with all migrations, of which `settings` speak from now on; it is dropped at the end."""
    admin = os.environ["RAVAND_DATABASE_ADMIN_URL"]
    name = f"bench_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(admin)
    await connection.execute(f'CREATE DATABASE "{name}" OWNER ravand')
    url = settings.database.url.get_secret_value().rpartition("/")[0] + f"/{name}"
    settings.database.url = SecretStr(url)
    await migrate(url)
    try:
        yield
    finally:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await connection.close()


async def delete_topics(settings: KafkaSettings) -> None:
    """All with the prefix of `settings`."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        if names := [name for name in await admin.list_topics() if name.startswith(settings.prefix)]:
            await admin.delete_topics(names)
    finally:
        await admin.close()
