"""Whatever Kafka, PostgreSQL and the clients do, and in whichever order: every client sees the exact sequence.

A seeded scheduler commits, publishes, repeats, reorders, loses and delays; clients come, fall behind, leave and resume.
What a seed finds, it finds again.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from adapters.kafka import partition_of
from api.live import relay
from api.live.connection import Connection
from api.live.hub import Hub
from schemas.topics import EVENTS
from tests.api.live.fakes import FakeJournal, FakeSink
from tests.api.live.history import LOG, Workspace
from tests.api.live.virtual_time import run

JOBS = ("a", "b", "c")
LONG = 300.0


class World:
    """Two workspaces, their partitions, what is under way, and the clients."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.workspaces = [Workspace("one"), Workspace("two")]
        self.journal = FakeJournal(self.workspaces, self.rng)
        self.hub = Hub(self.journal)
        self.hub.log_is(LOG)
        self.audit = asyncio.create_task(self.hub.audit())
        self.offset = 0
        self.cursor = {self.partition(workspace): 0 for workspace in self.workspaces}
        self.unpublished: list[tuple[Workspace, int]] = []
        self.clients: list[Client] = []

    def partition(self, workspace: Workspace) -> int:
        return partition_of(workspace.name.encode(), EVENTS.partitions)

    def append(self) -> None:
        """Records take effect; their facts are on the way. They are not committed yet."""
        workspace = self.rng.choice(self.workspaces)
        for _ in range(self.rng.choice((1, 1, 1, 5, 40))):
            self.offset += self.rng.choice((1, 1, 2))
            workspace.append(self.rng.choice((*JOBS, *JOBS, None)), self.offset)
            self.unpublished.append((workspace, len(workspace.facts)))

    def commit(self) -> None:
        """The projector commits everything so far of one workspace; the notification may be lost."""
        workspace = self.rng.choice(self.workspaces)
        self.journal.committed[workspace.name] = len(workspace.facts)
        cursor = workspace.positions[-1] + 1 if workspace.positions else 0
        self.cursor[self.partition(workspace)] = cursor
        if self.rng.random() < 0.8:
            self.hub.committed(self.partition(workspace), cursor)

    def publish(self) -> None:
        """Facts arrive: in order, sometimes from earlier on, sometimes with holes."""
        many = self.rng.randrange(1, 30)
        batch, self.unpublished = self.unpublished[:many], self.unpublished[many:]
        if self.rng.random() < 0.2:  # Another projector took over and publishes again.
            workspace = self.rng.choice(self.workspaces)
            first = self.rng.randrange(len(workspace.facts) + 1)
            batch = [(workspace, v) for v in range(first + 1, min(first + 20, len(workspace.facts)) + 1)] + batch
        if self.rng.random() < 0.1:
            self.rng.shuffle(batch)
        for workspace, version in batch:
            if self.rng.random() < 0.05:
                continue
            value, position = workspace.facts[version - 1], workspace.positions[version - 1]
            self.hub.facts(self.partition(workspace), [(workspace.name, value, position)])

    def reconnect(self) -> None:
        """The listener lost its connection and reads the cursors."""
        for partition, cursor in self.cursor.items():
            self.hub.committed(partition, cursor)

    async def step(self) -> None:
        actions: list[Any] = [self.append, self.append, self.commit, self.commit, self.publish, self.publish]
        actions += [self.reconnect, self.come, self.toggle_database]
        actions += [self.rng.choice(self.clients).act] * 3 if self.clients else []
        self.rng.choice(actions)()
        await asyncio.sleep(self.rng.choice((0, 0, 0.0005, 0.01, 0.3)))

    def toggle_database(self) -> None:
        self.journal.away = not self.journal.away and self.rng.random() < 0.3

    def come(self) -> None:
        if len(self.clients) < 8:
            self.clients.append(Client(self, self.rng.choice(self.workspaces)))

    async def settle(self) -> None:
        """Everything is committed and everybody reads: let it all arrive."""
        self.journal.away = False
        for client in self.clients:
            client.sink.reading = True
            client.sink.drain()
        for workspace in self.workspaces:
            self.journal.committed[workspace.name] = len(workspace.facts)
            self.cursor[self.partition(workspace)] = self.offset + 1
        self.reconnect()
        await asyncio.sleep(LONG)

    async def close(self) -> None:
        for client in self.clients:
            client.connection.close(1000, "over")
        self.audit.cancel()
        await self.hub.close()


class Client:
    """Keeps for each subscription what it was promised, and checks it as messages come."""

    def __init__(self, world: World, workspace: Workspace) -> None:
        self.world = world
        self.workspace = workspace
        self.wants: dict[str, int] = {}
        """Job → the version of its last update, or what was asked for."""
        self.open()

    def open(self) -> None:
        self.live: set[str] = set()
        self.asked: dict[str, list[int | None]] = {}
        self.sink = FakeSink(self.came)
        self.connection = Connection(
            self.sink, self.world.hub, workspace=self.workspace.name, session="s", queue_bytes=2000
        )

    def say(self, **message: Any) -> None:
        self.connection.handle(msgspec.json.encode(message))

    def came(self, message: dict[str, Any]) -> None:
        """Every message is checked in the moment in which it is written."""
        if message["type"] == "subscribed":
            job = message["job_id"]
            assert message["version"] <= self.world.journal.committed[self.workspace.name]
            assert message["log"] == LOG
            since = self.asked[job][-1]
            self.wants[job] = message["version"] if since is None else since
            self.live.add(job)
        elif message["type"] == "job_update":
            job = message["job_id"]
            assert job in self.live, "an update before its answer, or after the end"
            expected = self.workspace.versions_of(job, after=self.wants[job])[0]
            assert message["version"] == expected
            assert message["version"] <= self.world.journal.committed[self.workspace.name], "not committed yet"
            earlier = [v for v in self.workspace.versions_of(job) if v < expected]
            assert message["previous"] == (earlier[-1] if earlier else 0)
            self.wants[job] = message["version"]
        elif message["type"] == "unsubscribed":
            self.live.discard(message["job_id"])
        else:
            assert message["type"] == "error", message
            self.live.discard(message["job_id"])

    def act(self) -> None:
        rng = self.world.rng
        job = rng.choice(JOBS)
        match rng.randrange(8):
            case 0 | 1 | 2:
                since = rng.choice((None, 0, self.wants.get(job)))
                self.live.discard(job)
                self.asked.setdefault(job, []).append(since)
                self.say(type="subscribe_job", job_id=job, since=since)
            case 3:
                self.say(type="unsubscribe_job", job_id=job)
            case 4 | 5:
                self.sink.reading = not self.sink.reading
                if self.sink.reading:
                    self.sink.drain()
            case 6:
                self.connection.close(1000, "gone")
                self.open()
            case _:
                self.sink.drain()
        if self.sink.closed:
            assert self.sink.ended is not None
            assert self.sink.ended[0] in (1000, 4408), self.sink.ended
            if self.sink.ended[0] == 4408:
                last = int(self.sink.ended[1].rpartition(" ")[2])
                for job in self.live:  # Resuming from there skips nothing.
                    assert not [v for v in self.workspace.versions_of(job, after=self.wants[job]) if v <= last]
            self.open()


async def _play(seed: int, steps: int) -> None:
    world = World(seed)
    for _ in range(steps):
        await world.step()
    await world.settle()
    for client in world.clients:
        if client.sink.closed:
            continue
        for job in client.live:
            # Nothing is missing at the end either.
            assert client.workspace.versions_of(job, after=client.wants[job]) == [], (seed, job)
        for job in client.asked:
            if job in client.connection.subscriptions:
                assert job in client.live, (seed, job, "never answered")
    await world.close()


@pytest.mark.parametrize("block", range(10))
def test_every_client_sees_the_exact_sequence_under_any_schedule(block: int) -> None:
    for seed in range(block * 12, block * 12 + 12):
        run(_play(seed, 250))


def test_a_part_that_fails_by_a_mistake_of_ours_is_reported_and_started_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def play() -> int:
        again, starts = asyncio.Event(), 0

        async def mistaken() -> None:
            nonlocal starts
            starts += 1
            if starts == 1:
                raise RuntimeError("a mistake of ours")
            again.set()

        running = asyncio.create_task(relay._forever("relay facts", mistaken))
        await again.wait()
        running.cancel()
        return starts

    assert run(play()) == 2
    assert '"a part of the relay failed", "part": "relay facts"' in capsys.readouterr().err
