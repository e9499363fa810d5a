"""The broker and the database are killed and come back at any moment, in a pair of servers of their own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.migrations import migrate
from adapters.settings import Settings
from adapters.topics import create_topics
from ops.embedded import AskedPorts, choose_ports, kafka_of, postgres_of, together
from ops.keeper import Keeper, State
from ops.state_folder import StateFolder
from tests.projections.platform import Log, projecting, settings_for, until
from tests.projections.records import stream
from tests.projections.test_projector import check_everything

WORKSPACES = [f"team-{number}" for number in range(5)]


class Pair:
    """A broker and a database, each started again when it dies."""

    def __init__(self, kafka: Keeper, postgres: Keeper, settings: Settings) -> None:
        self.kafka, self.postgres, self.settings = kafka, postgres, settings

    async def kill(self, names: list[str]) -> None:
        """`kill -9`, and wait until others have taken their places."""
        keepers = [self.kafka if name == "kafka" else self.postgres for name in names]
        before = [keeper.identity for keeper in keepers]
        for identity in before:
            assert identity is not None
            identity.send(signal.SIGKILL)

        async def back() -> bool:
            return all(
                keeper.identity != old and keeper.state is State.RUNNING
                for keeper, old in zip(keepers, before, strict=True)
            )

        await until(back, 60)


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Running, with topics and tables made."""
    state = StateFolder.open(tmp_path / "pair")
    with state.exclusively():
        ports = choose_ports(state, AskedPorts())
        servers = kafka_of(state, ports), postgres_of(state, ports)
        kafka, postgres = (Keeper(server, state.logs) for server in servers)
        try:
            await together(keeper.start() for keeper in (kafka, postgres))
            settings = settings_for(servers[0].client_settings(), "ravand.", servers[1].url())
            await create_topics(settings.kafka)
            await migrate(settings.database.url.get_secret_value())
            yield Pair(kafka, postgres, settings)
        finally:
            for keeper in (kafka, postgres):
                with contextlib.suppress(Exception):
                    await keeper.stop()


@pytest.mark.timeout(240)
async def test_servers_that_are_killed_and_return_change_nothing_in_the_rows(pair: Pair) -> None:
    async with projecting(pair.settings):
        for seed, victims in enumerate((["postgres"], ["kafka"], ["postgres", "kafka"], ["kafka"], [])):
            async with Log.of(pair.settings) as log:
                await log.write(stream(seed, WORKSPACES, 600))
            await pair.kill(victims)
        async with Log.of(pair.settings) as log:
            await log.stored_to_the_end()
    async with Log.of(pair.settings) as log:
        await check_everything(log)
