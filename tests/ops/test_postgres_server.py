"""The real database server: whom it runs as, and how it comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from ops import unprivileged
from ops.embedded import AskedPorts, choose_ports
from ops.keeper import Keeper
from ops.postgres_server import PostgresServer
from ops.state_folder import StateFolder
from ops.unprivileged import User
from tests.ops.conftest import until_async

Running = Callable[..., AbstractAsyncContextManager[tuple[Keeper, PostgresServer]]]


@pytest.fixture
def running(folder: Path) -> Running:
    """A server on the test's folder, as often as it is asked for."""
    state = StateFolder.open(folder)

    @asynccontextmanager
    async def run(user: User | None = None) -> AsyncIterator[tuple[Keeper, PostgresServer]]:
        port = choose_ports(state, AskedPorts())["postgres"]
        server = PostgresServer(state.postgres, port, state.secrets(), durable=False, user=user)
        keeper = Keeper(server, state.logs)
        try:
            await keeper.start()
            yield keeper, server
        finally:
            await keeper.stop()

    return run


def capabilities_of(pid: int) -> int:
    """What the process may do beyond an ordinary user."""
    return int(Path(f"/proc/{pid}/status").read_text().split("CapEff:")[1].split()[0], 16)


def mode(path: Path) -> int:
    """Who may enter."""
    return path.stat().st_mode & 0o777


async def remember(server: PostgresServer, number: int) -> None:
    """Writes a row that must survive."""
    connection = await asyncpg.connect(server.url())
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
    await connection.execute("INSERT INTO kept VALUES ($1)", number)
    await connection.close()


async def remembered(server: PostgresServer) -> list[int]:
    """The rows."""
    connection = await asyncpg.connect(server.url())
    rows = await connection.fetch("SELECT number FROM kept ORDER BY number")
    await connection.close()
    return [row["number"] for row in rows]


async def test_a_killed_server_is_started_again_and_has_lost_nothing(running: Running) -> None:
    async with running() as (keeper, server):
        await remember(server, 1)
        before = keeper.identity
        assert before is not None
        psutil.Process(before.pid).send_signal(signal.SIGKILL)
        await until_async("another one runs", lambda: keeper.identity != before and keeper.state == "running")
        assert await remembered(server) == [1]


async def test_a_note_of_a_process_number_that_is_used_again_does_not_keep_it_from_starting(running: Running) -> None:
    async with running() as (_, server):
        await remember(server, 1)
    note = server.folder / "data" / "postmaster.pid"
    note.write_text(f"{os.getppid()}\n{note.parent}\n1\n{server.port}\n\n127.0.0.1\n")
    async with running() as (_, server):
        assert await remembered(server) == [1]


async def test_a_server_of_an_earlier_run_that_still_lives_is_ended_first(running: Running) -> None:
    async with running() as (first, server):
        await remember(server, 1)
        old = first.identity
        assert old is not None
        # As if nobody watched it any more; it has the folder, and the port until it is ended.
        await first.forget()
        async with running() as (second, server):
            assert await remembered(server) == [1]
            assert second.identity != old
            assert not old.lives


async def test_the_services_role_is_no_superuser_and_a_password_is_needed(running: Running) -> None:
    async with running() as (_, server):
        connection = await asyncpg.connect(server.url())
        assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SHOW max_wal_size") == "8GB"
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://postgres:wrong@{server.address}/postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("account", [None, "nobody"], ids=["user namespace", "system account"])
async def test_root_runs_it_in_a_private_folder(running: Running, account: str | None, folder: Path) -> None:
    user = unprivileged.as_account(account) if account else unprivileged.in_namespace()
    if user is None:
        pytest.skip("this machine does not allow it")
    async with running(user) as (keeper, server):
        await remember(server, 1)
        assert keeper.identity is not None
        assert capabilities_of(keeper.identity.pid).bit_count() <= 1
        assert (server.folder / "data").lstat().st_uid == user.owner[0]
    # The other way next time: the files change hands.
    async with running(unprivileged.in_namespace()) as (_, server):
        assert await remembered(server) == [1]
    assert mode(folder.parent) == mode(folder) == 0o700
