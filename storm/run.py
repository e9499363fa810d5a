"""One storm from the start of the installation to the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.kafka import topic_name
from checker.check import Report, check
from checker.violation import Violation
from schemas.topics import EVENTS
from storm import collect, recovery
from storm.clients import Notes, Pulse, User
from storm.faults import Storm
from storm.followers import Followers
from storm.load import OVER, PENGUINS, Habits
from storm.rebuilding import Rebuilding
from storm.recovery import Recovery
from storm.restarts import Restarts
from storm.small_disks import why_not
from storm.strays import Strays, read_topic
from storm.twins import Twins
from storm.world import World

QUIET_SECONDS = 120.0
"""How long after the last fault everything must have come to rest."""


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    seed: int
    minutes: float
    workers: int = 2
    users: int = 3
    brokers: int = 1
    small_disks: bool = True
    """Where this machine allows them."""
    only: tuple[str, ...] = ()
    """Kinds of faults; all when empty."""


@dataclass
class Outcome:
    """What a run showed."""

    options: Options
    report: Report
    violations: list[Violation]
    faults: Counter[str]
    outcomes: Counter[str]
    recoveries: list[Recovery]
    restarts: dict[str, int]
    twins: dict[str, int]
    resyncs: int
    quiet_after: float
    own_fenced: int
    """Fenced records that no stray of the storm is."""
    reads: int
    statuses: list[int] = field(default_factory=list)


async def run(folder: Path, options: Options, say: Callable[[str], None]) -> Outcome:
    """Everything. Raises `RuntimeError` when the installation does not even start."""
    no_disks = why_not(_empty(folder / "probe")) if options.small_disks else "nobody asked for them"
    if no_disks:
        say(f"no full disks in this storm: {no_disks}")
    world = World(folder, options.workers, options.brokers, disks_for=None if no_disks else options.minutes)
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started = time.monotonic()
    try:
        await world.start()
        say(f"the installation answers after {time.monotonic() - started:.1f} s")
        outcome = await _storm(world, options, say)
        if outcome.violations:
            world.keep_disks()
    finally:
        statuses = await world.stop()
    outcome.statuses = statuses
    if any(statuses):
        outcome.violations.append(Violation("V2", f"`ravand up` ended with {statuses} when it was told to stop"))
    return outcome


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _storm(world: World, options: Options, say: Callable[[str], None]) -> Outcome:
    notes, followers = Notes(), Followers()

    def rng(name: str) -> random.Random:
        return random.Random(f"{options.seed} {name}")

    async def user(name: str) -> User:
        made = User(world.url, name, rng(name), notes)
        await made.register()
        return made

    async def dataset(of: User) -> str:
        return str((await of.upload(PENGUINS, "penguins")).answer["id"])

    twin = await user("twin")
    twins = Twins(twin, await dataset(twin))
    await twins.undisturbed()
    say("the undisturbed twin is done")
    pulse = await _pulse(await user("pulse"), dataset)
    users = [await user(f"user{number}") for number in range(options.users)]
    habits = [Habits(one, followers, await dataset(one)) for one in users]
    for one in (*users, twin):
        followers.follow(one)
    restarts = Restarts(world)
    rebuilding = Rebuilding(world)
    await rebuilding.look()
    storm = Storm(world, followers, Strays(world.kafka), pulse, rng("faults"), rebuilding, only=options.only)
    say("the storm begins")
    people = [asyncio.create_task(habit.live()) for habit in habits]
    people += [asyncio.create_task(pulse.beat()), asyncio.create_task(twins.again())]
    watching = asyncio.create_task(restarts.watch())
    try:
        await storm.rage(time.monotonic() + 60 * options.minutes)
        await pulse.after(time.time(), 20.0)
        say(f"{len(storm.journal)} faults; waiting until everything rests")
        calm = time.monotonic()
        for task in people:
            task.cancel()
        await asyncio.gather(*people, return_exceptions=True)
        await pulse.finish()
        rested = await _rest(world, [*users, pulse.user], twins)
        quiet_after = time.monotonic() - calm
        restarts.look()
        await followers.until(await _versions(world), 20.0)
    finally:
        for task in (*people, watching):
            task.cancel()
        await asyncio.gather(*people, watching, return_exceptions=True)
        await followers.stop()
    history = await collect.history(world, storm, notes, followers, quiesced=rested)
    report = await asyncio.to_thread(check, history)
    differing, attempts = twins.check(report.fold)
    violations = [
        *report.violations,
        *differing,
        *restarts.check(storm.ended, storm.full),
        *_answers(notes, storm.full),
    ]
    violations += [Violation("R5", f"a rebuild failed: {said}") for said in rebuilding.failures]
    if not rested:
        violations.append(Violation("V1", f"not at rest {QUIET_SECONDS:.0f} s after the last fault"))
    fenced = [v for v in report.fold.verdicts if v.refusal == "fenced" and v.document]
    first = {id(v) for v in _first_copies(report)}
    return Outcome(
        options=options,
        report=report,
        violations=violations,
        faults=Counter(f"{fault.what} {recovery.service(fault.target)}" for fault in storm.journal),
        outcomes=Counter(f"{call.outcome} {call.code or call.status}" for call in notes.calls),
        recoveries=recovery.times(storm.journal, report.fold, pulse.answered),
        restarts=restarts.counted(),
        twins=attempts,
        resyncs=notes.resyncs,
        quiet_after=quiet_after,
        own_fenced=sum(1 for v in fenced if id(v) in first and (v.document or {})["id"] not in storm.strays.ids),
        reads=sum(1 for read in notes.reads if read.version is not None),
    )


def _first_copies(report: Report) -> list[Any]:
    seen: set[str] = set()
    found = []
    for verdict in report.fold.verdicts:
        if verdict.document and verdict.document["id"] not in seen:
            seen.add(verdict.document["id"])
            found.append(verdict)
    return found


def _answers(notes: Notes, full: Collection[str]) -> list[Violation]:
    """V5: nothing but 503 says that it is the platform's fault, and 507 that a disk is full."""
    allowed = {503, 507} if full else {503}
    calls = [(c.operation, c.status, c.code) for c in notes.calls] + [("GET", r.status, None) for r in notes.reads]
    wrong = Counter(call for call in calls if call[1] >= 500 and call[1] not in allowed)
    return [
        Violation("V5", f"{what} was answered {status} {code} ({n} times)") for (what, status, code), n in wrong.items()
    ]


async def _pulse(user: User, dataset: Callable[[User], Any]) -> Pulse:
    """A job that rests, so that nothing but the pulse changes it."""
    pulse = Pulse(user)
    body = {
        "recipe": "tabular",
        "dataset_id": await dataset(user),
        "parameters": {"target": "species", "epochs": 100_000},
    }
    pulse.job_id = (await user.ask("train", body)).answer["job_id"]
    await user.ask("pause", {"job_id": pulse.job_id})
    return pulse


async def _rest(world: World, users: list[User], twins: Twins) -> bool:
    """Stop what is left, and wait until nothing runs and every record is judged."""
    until = time.monotonic() + QUIET_SECONDS
    await twins.rest(60.0)
    while time.monotonic() < until:
        still = False
        for user in users:
            for job in await user.look() or [{"status": "unknown", "job_id": ""}]:
                if job["status"] in (*OVER, "paused"):
                    continue
                still = True
                if job["status"] not in ("unknown", "stopping"):
                    await user.ask("stop", {"job_id": job["job_id"]})
        with contextlib.suppress(OSError):
            if not still and await _at_end(world):
                return True
        await asyncio.sleep(0.5)
    return False


async def _at_end(world: World) -> bool:
    connection = await world.connect()
    try:
        cursors = {r["partition"]: r["next_offset"] for r in await connection.fetch("SELECT * FROM log.cursors")}
        open_jobs = await connection.fetchval(
            "SELECT count(*) FROM read.jobs WHERE status NOT IN ('completed', 'failed', 'stopped', 'paused')"
        )
    finally:
        await connection.close()
    ends: dict[int, int] = {}
    kafka = world.kafka
    for record in await read_topic(kafka, topic_name(kafka, EVENTS), EVENTS.partitions):
        ends[record.partition] = record.offset + 1
    return open_jobs == 0 and all(cursors.get(partition) == end for partition, end in ends.items())


async def _versions(world: World) -> dict[tuple[str, str], int]:
    connection = await world.connect()
    try:
        rows = await connection.fetch("SELECT workspace, job_id, version FROM read.jobs")
    finally:
        await connection.close()
    return {(row["workspace"], row["job_id"]): row["version"] for row in rows}
