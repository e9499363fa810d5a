"""Does the work of a log again, in simulated time, under other circumstances: a discrete-event simulation without chance.

Assumptions (`ASSUMPTIONS`) are part of every answer that is made from it.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from audit.workload import Fault, Wish, Work, Workload
from domain.backoff import backoff_ms

PolicyName = Literal["priority", "fifo", "shortest", "fair"]
POLICIES: dict[PolicyName, str] = {
    "priority": "by priority, then age: what workers do",
    "fifo": "by age alone",
    "shortest": "what has the least work left first, which only a simulation can know",
    "fair": "whoever has used the workers least goes first, then age",
}
ASSUMPTIONS = (
    "an epoch takes as long as it took: neither the machine nor what else runs on it makes a difference",
    "every interruption hits the same attempt of the same job after the same work; a lost worker's place is free again when"
    " its lease has run out",
    "whoever asked for a stop, a pause, a retry or another priority would have asked at the same moment",
    "a free worker takes the next job at once and has every recipe; a job goes on from its newest checkpoint",
)


_ROUNDING = 1e-6
"""Seconds: sums of measured epochs and differences of moments agree up to this."""


@dataclass(frozen=True)
class Circumstances:
    """What is varied."""

    workers: int
    lease_seconds: float
    policy: PolicyName = "priority"


@dataclass(slots=True)
class Fate:
    """What became of a job in the simulation. Seconds since 1970."""

    work: Work
    status: str = "queued"
    priority: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    lost_seconds: float = 0.0
    attempts: int = 0
    losses: int = 0
    setbacks: int = 0
    not_before: float = 0.0
    done: float = 0.0
    """Seconds of work that are kept."""
    ends: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    running_since: float = 0.0
    turn: int = 0
    """Counts attempts and interruptions, so that an event planned for one that is over is known as such."""

    @property
    def total(self) -> float:
        """Seconds of work that the job needs."""
        return self.ends[-1] + self.work.closing_seconds if self.ends else self.work.closing_seconds

    @property
    def left(self) -> float:
        """Seconds of work still to do."""
        return self.total - self.done


class Simulation:
    """One run. `fates` holds what became of each job after `run`."""

    def __init__(self, workload: Workload, circumstances: Circumstances) -> None:
        self.circumstances = circumstances
        self.busy_seconds = 0.0
        self.end = workload.last_at
        otherwise = workload.usual_epoch()
        self.fates: list[Fate] = []
        for work in sorted(workload.jobs.values(), key=lambda w: (w.requested_at, w.id)):
            ends, kept = work.plan(otherwise)
            self.fates.append(Fate(work, priority=work.priority, ends=ends, kept=kept))
        self._free = circumstances.workers
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._lines: dict[str, list[Any]] = defaultdict(list)
        self._used: dict[str, float] = defaultdict(float)
        self._running: dict[str, int] = defaultdict(int)

    def run(self) -> Simulation:
        """Until nothing happens any more."""
        for fate in self.fates:
            self._at(fate.work.requested_at, lambda now, fate=fate: self._queued(fate, now))  # type: ignore[misc]
            for wish in fate.work.wishes:
                self._at(wish.at, lambda now, fate=fate, wish=wish: self._wish(fate, wish, now))  # type: ignore[misc]
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
            while self._events and self._events[0][0] == now:
                heapq.heappop(self._events)[2](now)
            self._assign(now)
            self.end = max(self.end, now)
        return self

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _queued(self, fate: Fate, now: float) -> None:
        fate.status = "queued"
        if fate.not_before > now:
            turn = fate.turn
            self._at(
                fate.not_before, lambda _: self._ready(fate) if (fate.status, fate.turn) == ("queued", turn) else None
            )
        else:
            self._ready(fate)

    def _ready(self, fate: Fate) -> None:
        """It may be claimed. Who shares a line is a question of the policy; stale places in it are passed over."""
        line = fate.work.requester if self.circumstances.policy == "fair" else ""
        heapq.heappush(self._lines[line], (*self._rank(fate), next(self._order), fate.turn, fate))

    def _assign(self, now: float) -> None:
        while self._free > 0 and (fate := self._next()) is not None:
            self._start(fate, now)

    def _next(self) -> Fate | None:
        best: str | None = None
        for name, line in list(self._lines.items()):
            while line and not self._stands(line[0]):
                heapq.heappop(line)
            if not line:
                del self._lines[name]
            elif best is None or self._before(name, best):
                best = name
        if best is None:
            return None
        fate: Fate = heapq.heappop(self._lines[best])[-1]
        return fate

    def _stands(self, place: Any) -> bool:
        fate: Fate = place[-1]
        # A place that was taken before a change of priority, an attempt or a withdrawal is another's now.
        return fate.status == "queued" and place[-2] == fate.turn and place[:2] == self._rank(fate)

    def _before(self, name: str, other: str) -> bool:
        """Of two requesters, under the fair policy: who has used less; then whose job is older."""
        a = (self._used[name], self._running[name], self._lines[name][0][:2])
        b = (self._used[other], self._running[other], self._lines[other][0][:2])
        return a < b

    def _rank(self, fate: Fate) -> tuple[float, float]:
        age = fate.work.requested_at
        match self.circumstances.policy:
            case "priority":
                return -fate.priority, age
            case "shortest":
                return fate.left, age
            case "fifo" | "fair":
                return 0.0, age

    def _start(self, fate: Fate, now: float) -> None:
        self._free -= 1
        self._running[fate.work.requester] += 1
        fate.status, fate.running_since = "running", now
        fate.started_at = now if fate.started_at is None else fate.started_at
        fate.turn += 1
        fault = fate.work.faults[fate.attempts] if fate.attempts < len(fate.work.faults) else None
        fate.attempts += 1
        turn = fate.turn
        if fault is not None and fault.reason and fault.after < fate.left:
            self._at(now + fault.after, lambda at: self._interrupted(fate, fault, turn, at))
        else:
            self._at(now + fate.left, lambda at: self._completed(fate, turn, at))

    def _worked(self, fate: Fate, now: float) -> float:
        seconds = now - fate.running_since
        self.busy_seconds += seconds
        self._used[fate.work.requester] += seconds
        self._running[fate.work.requester] -= 1
        fate.turn += 1
        return seconds

    def _completed(self, fate: Fate, turn: int, now: float) -> None:
        if turn != fate.turn:
            return
        self._worked(fate, now)
        self._free += 1
        fate.done = fate.total
        fate.status, fate.ended_at = "completed", now

    def _interrupted(self, fate: Fate, fault: Fault, turn: int, now: float) -> None:
        if turn != fate.turn:
            return
        reached = fate.done + self._worked(fate, now)
        index = bisect_right(fate.kept, reached + _ROUNDING)
        saved = max(fate.done, fate.kept[index - 1]) if index else fate.done
        if saved > fate.done:
            fate.losses = fate.setbacks = 0
        if fault.reason == "failed":
            self._free += 1
            fate.status, fate.ended_at = "failed", now
            return
        fate.lost_seconds += reached - saved
        fate.done = saved
        if fault.reason != "lease_expired":
            self._free += 1
            self._lost(fate, fault, now)
            return
        fate.status = "silent"
        noticed = fate.turn

        def notice(at: float) -> None:
            self._free += 1
            if noticed == fate.turn:
                self._lost(fate, fault, at)

        self._at(now + self.circumstances.lease_seconds, notice)

    def _lost(self, fate: Fate, fault: Fault, now: float) -> None:
        fate.setbacks += 1
        if fault.reason != "released":
            fate.losses += 1
            if fate.losses >= fate.work.max_losses:
                fate.status, fate.ended_at = "failed", now
                return
        fate.not_before = now + backoff_ms(fate.setbacks) / 1000
        self._queued(fate, now)

    def _wish(self, fate: Fate, wish: Wish, now: float) -> None:
        """What was asked for, where it is possible now; else it is as if nobody had asked."""
        match wish.kind, fate.status:
            case "priority", _:
                fate.priority = wish.priority
                if fate.status == "queued" and fate.not_before <= now:
                    self._ready(fate)
            case (("stop" | "pause"), ("queued" | "running" | "silent")):
                self._withdraw(fate, now)
                fate.status = "stopped" if wish.kind == "stop" else "paused"
                fate.ended_at = now if wish.kind == "stop" else None
            case "stop", "paused":
                fate.status, fate.ended_at = "stopped", now
            case "resume", "paused":
                self._queued(fate, now)
            case (("retry" | "fresh"), ("stopped" | "failed")):
                fate.losses = fate.setbacks = 0
                fate.not_before, fate.ended_at = 0.0, None
                fate.done = 0.0 if wish.kind == "fresh" else fate.done
                self._queued(fate, now)

    def _withdraw(self, fate: Fate, now: float) -> None:
        if fate.status == "running":
            # Its worker saves a checkpoint first, so nothing of it is lost.
            fate.done = min(fate.total, fate.done + self._worked(fate, now))
            self._free += 1
        else:
            fate.turn += 1
