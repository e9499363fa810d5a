"""The projector, the database and the broker are killed while a job streams: every socket still tells all of it, once."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest

from adapters.settings import Settings
from ops.embedded import AskedPorts, choose_ports, kafka_of, postgres_of, together
from ops.keeper import Keeper
from ops.service import SOURCE, Service
from ops.state_folder import StateFolder
from tests.api.live.real import Worker, assert_whole, socket_of, until_epoch, workspace_of
from tests.api.platform import initialise, serving, settings_for


class Installation:
    """Servers and a projector that are started again when they die, as `ravand up` does it."""

    def __init__(self, keepers: dict[str, Keeper], settings: Settings) -> None:
        self.keepers = keepers
        self.settings = settings

    def kill(self, name: str) -> None:
        identity = self.keepers[name].identity
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)


@asynccontextmanager
async def installation(folder: Path) -> AsyncIterator[Installation]:
    state = StateFolder.open(folder / "state")
    async with AsyncExitStack() as stack:
        stack.enter_context(state.exclusively())
        ports = choose_ports(state, AskedPorts())
        kafka, postgres = kafka_of(state, ports), postgres_of(state, ports, durable=False)
        keepers = {"kafka": Keeper(kafka, state.logs), "postgres": Keeper(postgres, state.logs)}
        for keeper in keepers.values():
            stack.push_async_callback(keeper.stop)
        await together(keeper.start() for keeper in keepers.values())
        settings = settings_for(kafka.client_settings(), "faults.", postgres.url(), folder)
        await initialise(settings)
        environment = {
            **os.environ,
            **kafka.client_settings(),
            "RAVAND_KAFKA__PREFIX": "faults.",
            "RAVAND_DATABASE__URL": postgres.url(),
            "RAVAND_STORE__URL": settings.store.url,
        }
        projector = Keeper(Service("projector", environment, SOURCE), state.logs)
        keepers["projector"] = projector
        stack.push_async_callback(projector.stop)
        await projector.start()
        yield Installation(keepers, settings)


@pytest.mark.timeout(300)
async def test_no_kill_makes_a_gap_or_a_repetition(tmp_path: Path) -> None:
    async with (
        installation(tmp_path) as it,
        serving(it.settings, projector=False) as platform,
        platform.member() as member,
    ):
        workspace = await workspace_of(platform, member)
        jobs = [await member.job() for _ in range(4)]

        async with AsyncExitStack() as stack:
            clients = []
            for job in jobs:
                client = await stack.enter_async_context(socket_of(platform, member))
                await client.say(type="subscribe_job", job_id=job, since=0)
                assert (await client.hear())["type"] == "subscribed"
                clients.append(client)
            whole = await stack.enter_async_context(socket_of(platform, member))
            await whole.say(type="subscribe_jobs", since=0)
            assert (await whole.hear())["type"] == "subscribed_jobs"

            kills: list[Callable[[], None]] = [
                lambda: it.kill("projector"),
                lambda: it.kill("postgres"),
                lambda: it.kill("kafka"),
                lambda: None,
            ]
            told: list[list[dict[str, object]]] = []
            for job, client, kill in zip(jobs, clients, kills, strict=True):
                async with Worker(it.settings, workspace, job).working() as worker:
                    await worker.epochs(1)
                    kill()
                    await worker.epochs(2)
                    heard: list[dict[str, object]] = []
                    await until_epoch(client, 3, heard)
                assert_whole(heard)
                assert [update["event"] for update in heard] == [
                    "JobRequested",
                    "AttemptStarted",
                    *["EpochCompleted"] * 3,
                ]
                told.append(heard)

            # Who listened to everything was told the same, in the order of the versions.
            count = sum(len(heard) for heard in told)
            everything = [await whole.hear(60) for _ in range(count)]
            assert everything == sorted(chain(*told), key=lambda update: int(str(update["version"])))

            # And who comes only now is told the same again.
            async with socket_of(platform, member) as late:
                await late.say(type="subscribe_jobs", since=0)
                assert (await late.hear())["type"] == "subscribed_jobs"
                assert [await late.hear() for _ in range(count)] == everything
