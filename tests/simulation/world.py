"""Virtual time, a log, a table topic, and a network that delays, repeats and forgets: everything from one seed.

Nothing here decides anything about jobs. Judging is `domain.workspace.judge`; what workers and supervisors do is in the
modules beside this one, around the real pure functions of `workers`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Effect
from tests.domain.ledger import Ledger, must
from tests.domain.scenario import NOON, Record

Process = Generator[float | None, None, None]
"""Yields milliseconds to sleep, or None to sleep until it is woken."""
CALM_LIMIT_MS = 5 * 60_000
"""Virtual time after the last fault within which everything must have come to rest; a rest takes up to a minute."""


@dataclass(frozen=True)
class Scope:
    """How much happens in one schedule."""

    workers: int = 2
    jobs: int = 2
    epochs: int = 4
    requests: int = 6
    trouble_ms: int = 8_000
    """How long crashes, freezes, delays and people go on."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record where it lies in the log."""

    id: str
    record: Record
    at: int


@dataclass(frozen=True, slots=True)
class Row:
    """A record of the table of open jobs; `job` None is a tombstone."""

    job_id: str
    version: int
    job: Job | None


@dataclass
class Actor:
    """Somebody whose processes can be frozen or killed."""

    name: str
    alive: bool = True
    frozen_until: int = 0
    process: Process | None = None
    waiting: bool = False
    """Whether it sleeps until woken."""
    turn: int = 0


@dataclass
class World:
    """One schedule."""

    seed: int
    scope: Scope
    random: random.Random = field(init=False)
    now: int = NOON
    log: list[Entry] = field(default_factory=list)
    verdicts: list[Effect | Refusal] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    table: dict[str, Row] = field(default_factory=dict)
    """The table topic as compaction leaves it: the last record of each key."""
    on_log: list[Callable[[], None]] = field(default_factory=list)
    on_row: list[Callable[[Row], None]] = field(default_factory=list)
    at_rest: bool = False
    """Only what is still under way arrives; nobody beats any more."""
    trace: list[str] = field(default_factory=list)
    tracing: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._ids = count()
        self.calm_at = NOON + self.scope.trouble_ms

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def troubled(self) -> bool:
        """Whether faults still happen."""
        return self.now < self.calm_at

    def chance(self, probability: float) -> bool:
        """Whether a fault of that probability happens here; none does once it is calm."""
        return self.troubled and self.random.random() < probability

    def after(self, ms: float, do: Callable[..., None], *args: Any) -> None:
        """Do it in so many virtual milliseconds."""
        heapq.heappush(self._heap, (self.now + int(ms), next(self._order), do, args))

    def run(self, done: Callable[[], bool]) -> None:
        """Until it is calm and `done`, or nothing is left to happen."""
        while self._heap:
            self.now, _, do, args = heapq.heappop(self._heap)
            do(*args)
            if not self.troubled and done():
                return
            must(self.now < self.calm_at + CALM_LIMIT_MS, "everything comes to rest once the trouble is over")
        must(done(), "something always happens until everything has come to rest")

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, actor: Actor, process: Process) -> None:
        """Let the actor's process take its first step now."""
        actor.process = process
        self.after(0, self._step, actor, actor.turn)

    def wake(self, actor: Actor) -> None:
        """Its process goes on if it waited."""
        if actor.waiting:
            actor.waiting = False
            self.after(0, self._step, actor, actor.turn)

    def wake_at(self, actor: Actor, ms: float) -> None:
        """Wake it in so many milliseconds, if it still waits then."""
        self.after(ms, self._wake_turn, actor, actor.turn)

    def _wake_turn(self, actor: Actor, turn: int) -> None:
        if actor.turn == turn:
            self.wake(actor)

    def _step(self, actor: Actor, turn: int) -> None:
        if not actor.alive or actor.process is None or actor.turn != turn:
            return
        if self.now < actor.frozen_until:
            self.after(actor.frozen_until - self.now, self._step, actor, turn)
            return
        actor.turn += 1
        actor.waiting = False
        try:
            pause = next(actor.process)
        except StopIteration:
            actor.process = None
            return
        if pause is None:
            actor.waiting = True
        else:
            self.after(pause, self._step, actor, actor.turn)

    # --- the log ------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id that nobody else has."""
        return f"id-{next(self._ids)}"

    def send(self, id: str, record: Record, acknowledged: Callable[[], None] | None = None) -> None:
        """Append over the network: it may take long, arrive twice, and the acknowledgement may be lost."""
        delay = self.random.randint(200, 5_000) if self.chance(0.06) else self.random.randint(1, 8)
        self.after(delay, self._land, id, record)
        if self.chance(0.05):
            self.after(delay + self.random.randint(1, 6_000), self._land, id, record)
        if acknowledged is not None and not self.chance(0.06):
            self.after(delay + 2, acknowledged)

    def _land(self, id: str, record: Record) -> None:
        self.log.append(Entry(id, record, self.now))
        for heard in self.on_log:
            heard()

    def judged(self, offset: int, verdict: Effect | Refusal) -> None:
        """Somebody computed the verdict on the record at `offset`."""
        if offset < len(self.verdicts):
            must(verdict == self.verdicts[offset], "a verdict is a function of the log, whoever computes it")
            return
        entry = self.log[offset]
        if self.tracing:
            shown = f"version {verdict.version}" if isinstance(verdict, Effect) else verdict.value
            self.trace.append(f"{entry.at - NOON:>7} {entry.record.subject} {entry.record.event} -> {shown}")
        self.verdicts.append(verdict)
        self.ledger.hear(entry.id, entry.record, verdict)

    # --- the table ----------------------------------------------------------------------------------------------------

    def publish(self, row: Row) -> None:
        """The row is in the topic now."""
        self.table[row.job_id] = row
        for heard in self.on_row:
            heard(row)
