"""What is done to the system. Each fault is done, undone where that is not the system's own business, and written down."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import psutil

from checker.history import Fault
from ops.registry import Row
from storm import lines
from storm.clients import Pulse
from storm.followers import Followers
from storm.proxy import Proxy
from storm.rebuilding import Rebuilding
from storm.strays import Strays
from storm.world import LEASE_SECONDS, World, thaw

SERVICES = ("api", "worker", "trainer", "projector", "supervisor", "telemetry", "kafka", "postgres")
Kind = Callable[[], Awaitable[None]]
TERM = {"postgres": signal.SIGINT}
"""What asks a program to leave, where it is not SIGTERM."""
LINE_FAULTS = ("cut", "delay", "slow down", "reset", "lose requests to", "lose replies of", "clog")
PAST_SESSION = (7.0, 12.0)
"""Seconds after which a frozen broker of three no longer leads anything; around the clients' own patience of 10."""


class NothingToHit(Exception):
    """There is no such process at the moment."""


@dataclass
class Storm:
    """The scheduler of faults."""

    world: World
    followers: Followers
    strays: Strays
    pulse: Pulse
    rng: random.Random
    rebuilding: Rebuilding
    only: tuple[str, ...] = ()
    journal: list[Fault] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)
    """How often a process of each service was killed or told to leave."""
    full: set[str] = field(default_factory=set)
    """Whose disks were full at some time: what ended then did so by itself, and as often as it tried."""

    @property
    def lines(self) -> dict[str, Sequence[Proxy]]:
        """What connects the services with their servers."""
        return {"database": [self.world.proxy], "kafka": self.world.kafka_proxies}

    async def rage(self, until: float) -> None:
        """One fault after another, until a moment of the monotonic clock; the last one is undone when this returns."""
        deck: list[str] = []
        burst = 0
        while time.monotonic() < until:
            if not deck:
                deck = self._deck()
            kind = deck.pop()
            try:
                await self.one(kind)
            except NothingToHit:
                await asyncio.sleep(0.2)
                continue
            # Mostly each fault is overcome before the next one; sometimes a few come on top of each other.
            if not burst and self.rng.random() < 0.12:
                burst = self.rng.randint(2, 4)
            if burst:
                burst -= 1
            else:
                await self.pulse.after(self.journal[-1].until, 40.0)
                if self.journal[-1].job and self.rng.random() < 0.6:
                    await self._goes_on(self.journal[-1], 20.0)
            await asyncio.sleep(self.rng.uniform(0.0, 0.5 if burst else 2.0))

    def kinds(self) -> dict[str, Kind]:
        """Every kind of fault by its name. Those that fence and those of workers stand in the deck more than once."""
        kinds: dict[str, Kind] = {}
        for service in SERVICES:
            kinds[f"kill {service}"] = partial(self.end, service, signal.SIGKILL)
        for service in ("api", "worker", "projector", "supervisor", "telemetry", "kafka", "postgres"):
            kinds[f"leave {service}"] = partial(self.end, service, TERM.get(service, signal.SIGTERM))
        for service in ("api", "projector", "kafka", "postgres", "trainer"):
            kinds[f"freeze {service}"] = partial(self.freeze, service, 1.0, 4.0)
        past = LEASE_SECONDS + 1.5
        kinds |= {
            "freeze supervisor": partial(self.freeze, "supervisor", past, past + 2),
            "freeze worker": partial(self.freeze, "worker", past, past + 2),
            "freeze worker, not its child": partial(self.freeze, "worker", past, past + 2, alone=True),
            "kill worker again": partial(self.end, "worker", signal.SIGKILL),
            "kill trainer again": partial(self.end, "trainer", signal.SIGKILL),
            "kill api and projector": partial(self.both, "api", "projector"),
            "kill kafka and worker": partial(self.both, "kafka", "worker"),
            "kill postgres and projector": partial(self.both, "postgres", "projector"),
            "cut sockets": self.cut_sockets,
            "end sessions": self.end_sessions,
            "repeat old records": self.repeat_old,
            "late record of an old attempt": self.late,
            "poison": self.poison,
        }
        for line, proxies in self.lines.items():
            for what in LINE_FAULTS:
                kinds[f"{what} {line}"] = partial(self.on_line, what, line, proxies)
        for disk in self.world.disks:
            kinds[f"fill disk of {disk}"] = partial(self.fill_disk, disk)
        if self.world.brokers > 1:
            kinds["kill two brokers"] = partial(self.two_brokers, signal.SIGKILL)
            kinds["freeze two brokers"] = partial(self.two_brokers, signal.SIGSTOP)
            kinds["freeze kafka past its session"] = partial(self.freeze, "kafka", *PAST_SESSION)
        if self.rebuilding.is_possible:
            kinds["rebuild"] = partial(self.rebuild, "to its end")
            kinds["kill rebuild"] = partial(self.rebuild, "killed half-way")
            kinds["roll rebuild back"] = partial(self.rebuild, "rolled back")
        return kinds

    async def _goes_on(self, fault: Fault, seconds: float) -> None:
        """Wait until clients have heard that the training that was hit goes on, or has ended."""
        until = time.monotonic() + seconds
        watching = [follower for follower in self.followers.all if follower.job_id is None]
        while time.monotonic() < until:
            for follower in watching:
                for at, job, event, _, status in reversed(follower.seen[-200:]):
                    if job != fault.job or at < fault.until + 0.5:
                        continue
                    if event == "EpochCompleted" or status in ("completed", "failed", "stopped", "paused"):
                        return
            await asyncio.sleep(0.2)

    def _deck(self) -> list[str]:
        """Every kind once, in a new order; what fences comes early, so that a short run proves something too."""
        kinds = list(self.kinds())
        self.rng.shuffle(kinds)
        for early in ("late record of an old attempt", "freeze worker", "freeze worker, not its child"):
            kinds.remove(early)
            kinds.insert(len(kinds) - self.rng.randrange(8), early)
        return [kind for kind in kinds if not self.only or kind in self.only]

    async def one(self, kind: str) -> None:
        """Do one. Raises `NothingToHit`."""
        await self.kinds()[kind]()

    def _note(self, what: str, target: str, at: float, job: str | None = None) -> None:
        self.journal.append(Fault(at, what, target, time.time(), job))

    def _one_of(self, service: str) -> Row:
        living = self.world.living(service)
        if not living:
            raise NothingToHit(service)
        busy = {row.index for row in self.world.living("trainer")} if service == "worker" else set()
        return self.rng.choice([row for row in living if row.index in busy] or living)

    def _job_of(self, row: Row) -> str | None:
        if row.service not in ("worker", "trainer"):
            return None
        return next((other.job for other in self.world.living("trainer") if other.index == row.index), None)

    # --- processes ---------------------------------------------------------------------------------------------------

    async def end(self, service: str, number: signal.Signals) -> None:
        """Kill one process, or tell it to leave."""
        row = self._one_of(service)
        job, at = self._job_of(row), time.time()
        self._signal(row, number)
        self._note("kill" if number is signal.SIGKILL else "leave", f"{service} {row.index}", at, job)

    async def both(self, *services: str) -> None:
        """Kill one of each at the same moment."""
        rows = [self._one_of(service) for service in services]
        at = time.time()
        for row in rows:
            self._signal(row, signal.SIGKILL)
        self._note("kill", " and ".join(services), at)

    def _signal(self, row: Row, number: signal.Signals) -> None:
        self.ended[row.service] = self.ended.get(row.service, 0) + 1
        with contextlib.suppress(psutil.Error):
            psutil.Process(row.pid).send_signal(number)

    async def freeze(self, service: str, least: float, most: float, *, alone: bool = False) -> None:
        """Stop the clock of one process, and of its descendants, as of a machine that stalls; then let it go on."""
        row = self._one_of(service)
        job, at = self._job_of(row), time.time()
        family = self.world.family(row.pid)
        chosen = family[:1] if alone else family
        _send(chosen, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(least, most))
        finally:
            thaw([chosen])
        self._note("freeze, not its child" if alone else "freeze", f"{service} {row.index}", at, job)

    # --- connections -------------------------------------------------------------------------------------------------

    async def cut_sockets(self) -> None:
        """Clients lose their connections."""
        at = time.time()
        cut = self.followers.cut(self.rng)
        self._note("cut", f"{cut} sockets", at)

    async def end_sessions(self) -> None:
        """Some sessions of PostgreSQL are ended by an administrator."""
        at = time.time()
        try:
            connection = await self.world.connect()
        except Exception as error:
            raise NothingToHit("postgres") from error
        try:
            found = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() ORDER BY pid"
            )
            chosen = [row["pid"] for row in found if self.rng.random() < 0.5]
            for pid in chosen:
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
        finally:
            await connection.close()
        self._note("end", f"{len(chosen)} database sessions", at)

    async def on_line(self, what: str, line: str, proxies: Sequence[Proxy]) -> None:
        """Disturb what goes to a server and back; with several brokers, to one of them or to all."""
        chosen = proxies if len(proxies) == 1 or self.rng.random() < 0.3 else [self.rng.choice(proxies)]
        at = time.time()
        await lines.disturb(what, chosen, self.rng)
        self._note(what, line, at)

    # --- disks, brokers, rebuilds ------------------------------------------------------------------------------------

    async def fill_disk(self, name: str) -> None:
        """Nothing more can be written to it for a while."""
        disk, at = self.world.disks[name], time.time()
        pid = self.world.sees(disk.folder)
        try:
            await asyncio.to_thread(disk.fill, pid)
            until = time.monotonic() + self.rng.uniform(2.0, 6.0)
            while time.monotonic() < until:
                await asyncio.sleep(0.2)
                await asyncio.to_thread(disk.fill, pid)  # Whoever gave up left room again.
        except OSError as error:
            raise NothingToHit(name) from error
        finally:
            disk.free(pid)
        self.full.add(name.split()[0])
        self._note("fill", f"disk of {name}", at)

    async def two_brokers(self, number: signal.Signals) -> None:
        """Two of three at once: nothing can be written until one of them is back."""
        rows = self.world.living("kafka")
        if len(rows) < 2:
            raise NothingToHit("kafka")
        chosen, at = self.rng.sample(rows, 2), time.time()
        for row in chosen:
            if number is signal.SIGKILL:
                self._signal(row, number)
            else:
                _send(self.world.family(row.pid), number)
        if number is signal.SIGSTOP:
            try:
                await asyncio.sleep(self.rng.uniform(1.0, PAST_SESSION[1]))
            finally:
                thaw(self.world.family(row.pid) for row in chosen)
        self._note("kill" if number is signal.SIGKILL else "freeze", "two brokers", at)

    async def rebuild(self, how: str) -> None:
        """The read models are built anew while everything goes on."""
        at = time.time()
        if not await self.rebuilding.run(how, self.rng):
            raise NothingToHit("rebuild")
        self._note("rebuild", how, at)

    # --- records -----------------------------------------------------------------------------------------------------

    async def repeat_old(self) -> None:
        """Copies of records land once more."""
        await self._records("repeat", self.strays.repeat)

    async def late(self) -> None:
        """A record of an attempt that is over lands only now."""
        await self._records("late", self.strays.late)

    async def poison(self) -> None:
        """Records that nobody can read, or that lie where they do not belong."""
        await self._records("poison", self.strays.poison)

    async def _records(self, what: str, do: Callable[[random.Random], Awaitable[int]]) -> None:
        at = time.time()
        try:
            async with asyncio.timeout(5.0):
                count = await do(self.rng)
        except (TimeoutError, OSError) as error:
            raise NothingToHit("log") from error
        if not count:
            raise NothingToHit("nothing to repeat yet")
        self._note(what, f"{count} records", at)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
