"""Three brokers on one machine: any one of them may fail under load, two stop the writes and no more, and nothing is lost.

What clients saw and what is left behind is judged by the checker, which shares no code with the platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psutil
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient

from adapters.kafka import client_options, partition_of, topic_name
from checker.check import check
from checker.history import Call
from ops.registry import Row
from schemas.topics import EVENTS
from storm import collect
from storm.clients import Notes, User
from storm.faults import Storm
from storm.followers import Followers
from storm.load import OVER, PENGUINS, parameters
from storm.world import World, thaw

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]
RECOVERY_SECONDS = 60.0


class Cluster:
    """A running installation with one user, who remembers everything."""

    def __init__(self, world: World, user: User, dataset: str, followers: Followers) -> None:
        self.world, self.user, self.followers = world, user, followers
        self._dataset = dataset
        self.job = ""

    async def train(self, **more: Any) -> Call:
        """Ask for a job that lasts until it is stopped."""
        body = {
            "recipe": "tabular",
            "dataset_id": self._dataset,
            "parameters": parameters(100_000, 1, **more),
        }
        return await self.user.ask("train", body)

    async def leader(self) -> Row:
        """The broker that leads the partition in which this user's records are."""
        admin = AIOKafkaAdminClient(**client_options(self.world.kafka))
        await admin.start()
        try:
            [topic] = await admin.describe_topics([topic_name(self.world.kafka, EVENTS)])
        finally:
            await admin.close()
        mine = partition_of(self.user.workspace.encode(), EVENTS.partitions)
        [leader] = [found["leader"] for found in topic["partitions"] if found["partition"] == mine]
        [row] = [row for row in self.world.living("kafka") if row.index + 1 == leader]
        return row

    async def epochs_after(self, since: int, seconds: float = RECOVERY_SECONDS) -> int:
        """Wait until the socket has told of a later epoch of the job; the newest."""
        async with asyncio.timeout(seconds):
            while (now := self.newest_epoch()) <= since:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return now

    def newest_epoch(self) -> int:
        """As the socket told."""
        [follower] = self.followers.all
        mine = (frame.message for frame in follower.frames if frame.message.get("job_id") == self.job)
        return max((message.get("epoch", 0) for message in mine), default=0)

    async def answered_again(self) -> Call:
        """Ask for a change of priority until it is done; the call that was."""
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                call = await self.user.ask("priority", {"job_id": self.job, "priority": self.user.rng.randint(-99, 99)})
                if call.outcome == "ok" and "verdict" not in call.answer:
                    return call
                await asyncio.sleep(0.1)

    async def rest(self) -> None:
        """Stop whatever runs, also what nobody was told of, and wait until nothing does."""
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                jobs = await self.user.look()
                going = [job for job in jobs or () if job["status"] not in OVER]
                if jobs and not going:
                    return
                for job in going:
                    await self.user.ask("stop", {"job_id": job["job_id"]})
                await asyncio.sleep(0.2)

    async def judge(self) -> list[str]:
        """What the checker finds wrong with everything so far."""
        await self.rest()
        for follower in self.followers.all:  # The ends of earlier judgements are none any more.
            follower.frames = [frame for frame in follower.frames if frame.message["type"] != "end"]
        connection = await self.world.connect()
        try:
            rows = await connection.fetch("SELECT workspace, job_id, version FROM read.jobs")
        finally:
            await connection.close()
        await self.followers.until({(r["workspace"], r["job_id"]): r["version"] for r in rows}, 20.0)
        nothing: Any = Storm(self.world, self.followers, _NoStrays(), None, self.user.rng, None)  # type: ignore[arg-type]
        history = await collect.history(self.world, nothing, self.user.notes, self.followers, quiesced=True)
        report = await asyncio.to_thread(check, history)
        assert report.records > 0
        return [str(violation) for violation in report.violations]


class _NoStrays:
    ids: frozenset[str] = frozenset()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Three brokers, PostgreSQL and all services, with one worker."""
    running = World(tmp_path_factory.mktemp("three"), workers=1, brokers=3)
    try:
        await running.start()
        yield running
    finally:
        statuses = await running.stop()
    assert statuses == [0, 0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inhabited(world: World) -> AsyncIterator[Cluster]:
    """With one user and a socket that follows everything of theirs, so that the whole log can be judged after each test."""
    followers = Followers()
    user = User(world.url, "user", random.Random(1), Notes())
    await user.register()
    dataset = str((await done(user, await user.upload(PENGUINS, "penguins")))["id"])
    followers.follow(user)
    try:
        yield Cluster(world, user, dataset, followers)
    finally:
        await followers.stop()
        await user.http.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(inhabited: Cluster) -> Cluster:
    """With a new training under way."""
    inhabited.job = str((await done(inhabited.user, await inhabited.train()))["job_id"])
    await inhabited.epochs_after(2)
    return inhabited


async def done(user: User, call: Call) -> dict[str, Any]:
    """The answer to the last request, sent again as often as a busy machine needs."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while call.outcome != "ok" or "verdict" in call.answer:
            await asyncio.sleep(0.2)
            call = await user.send(user.asked[-1])
    return call.answer


@asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[list[Call]]:
    """Requests without end, four at a time; all that were answered."""
    calls: list[Call] = []

    async def ask() -> None:
        while True:
            calls.append(await asyncio.shield(cluster.user.ask("priority", {"job_id": cluster.job, "priority": 1})))
            await asyncio.sleep(0.02)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    try:
        yield calls
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


@contextmanager
def frozen(cluster: Cluster, row: Row) -> Iterator[None]:
    """It keeps its connections and answers nobody."""
    family = cluster.world.family(row.pid)
    for process in family:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        thaw([family])


@asynccontextmanager
async def kept_dead(cluster: Cluster, index: int) -> AsyncIterator[None]:
    """Kill this broker, and each process that takes its place; begins when it is dead."""
    dead = asyncio.Event()

    async def kill() -> None:
        while True:
            rows = [row for row in cluster.world.living("kafka") if row.index == index]
            for row in rows:
                with contextlib.suppress(psutil.Error):
                    psutil.Process(row.pid).kill()
            if not rows:
                dead.set()
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(kill())
    await dead.wait()
    try:
        yield
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)


async def copies(world: World) -> set[tuple[int, int]]:
    """How often each partition of the log is kept, and how many of the copies are in sync."""
    admin = AIOKafkaAdminClient(**client_options(world.kafka))
    await admin.start()
    try:
        [topic] = await admin.describe_topics([topic_name(world.kafka, EVENTS)])
    finally:
        await admin.close()
    return {(len(partition["replicas"]), len(partition["isr"])) for partition in topic["partitions"]}


async def test_each_record_is_kept_three_times(world: World) -> None:
    assert await copies(world) == {(3, 3)}
    assert [row.index for row in world.living("kafka")] == [0, 1, 2]
    assert world.settings().kafka.replication_factor == 3


async def test_the_leader_is_killed_under_load_and_nothing_is_lost(cluster: Cluster) -> None:
    async with load(cluster) as calls:
        leader = await cluster.leader()
        before = cluster.newest_epoch()
        psutil.Process(leader.pid).kill()
        await cluster.answered_again()
        await cluster.epochs_after(before + 3)
    assert {call.status for call in calls} <= {200, 202, 503}
    assert await cluster.judge() == []
    [job] = [job for job in await cluster.user.look() or () if job["job_id"] == cluster.job]
    assert job["attempt"] == 1, "its training went on: nobody took it for lost"


async def test_the_leader_is_frozen_past_its_session_and_wakes_up_as_a_follower(cluster: Cluster) -> None:
    async with load(cluster) as calls:
        leader = await cluster.leader()
        before = cluster.newest_epoch()
        with frozen(cluster, leader):
            await cluster.answered_again()
            await cluster.epochs_after(before + 3)
        await cluster.answered_again()
    assert {call.status for call in calls} <= {200, 202, 503}
    assert await cluster.judge() == []


async def test_without_two_of_three_writes_are_refused_reads_go_on_and_one_that_is_back_is_enough(
    cluster: Cluster,
) -> None:
    leader = await cluster.leader()
    other = min({0, 1, 2} - {leader.index})
    async with kept_dead(cluster, leader.index):
        async with kept_dead(cluster, other):
            first, second = await cluster.train(), await cluster.train()
            assert (first.status, second.status) == (503, 503)
            assert {first.code, second.code} <= {"outcome_unknown", "log_unavailable"}
            began = time.monotonic()
            refused = await cluster.user.http.post("/api/train/stop", json={"job_id": cluster.job})
            assert (refused.status_code, refused.json()["code"]) == (503, "log_unavailable")
            assert int(refused.headers["Retry-After"]) > 0
            assert "Nothing was changed" in refused.json()["detail"]
            assert time.monotonic() - began < 5.0, "it is refused at once, not after every deadline"
            assert await cluster.user.look(), "reads go on"
        await cluster.answered_again()
        await cluster.epochs_after(cluster.newest_epoch())
    assert await cluster.judge() == []
