"""What the other workers say of themselves, and the broker's clock, told from the timestamps of heartbeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas import heartbeat
from schemas.heartbeat import Heartbeat
from workers.claim_choice import IdleWorker


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest beat of a worker, and when the broker stored it, in milliseconds."""

    beat: Heartbeat
    at: int


def monotonic_ms() -> float:
    """Milliseconds of a clock that never jumps."""
    return time.monotonic() * 1000


class BrokerClock:
    """The broker's time, in milliseconds, without asking it: this machine's wall clock may be wrong by hours."""

    def __init__(self, monotonic: Callable[[], float] = monotonic_ms) -> None:
        """Unknown until it has been set."""
        self._monotonic = monotonic
        self._ahead: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether the time is known."""
        return self._ahead is not None

    def set(self, at: int) -> None:
        """A record that was stored at `at` has just been read."""
        self._ahead = at - self._monotonic()

    def now(self) -> int:
        """The time there, some milliseconds late. AssertionError while it is not known."""
        assert self._ahead is not None
        return int(self._monotonic() + self._ahead)


class Colleagues:
    """Follows `ravand.heartbeats`. The worker's own beats set the clock, and show that nothing before them was missed."""

    def __init__(self, me: str, lease_seconds: float, clock: BrokerClock) -> None:
        """`me` is this worker's id."""
        self._me = me
        self._lease_ms = lease_seconds * 1000
        self._clock = clock
        self._heard: dict[str, Heard] = {}
        self.own_sequence = 0
        """The newest of our own beats that came back."""

    def apply(self, records: Iterable[Any]) -> bool:
        """Take in beats; whether what we would claim may be another job now."""
        changed = False
        for record in records:
            if record.value is None:
                continue
            try:
                beat = heartbeat.decode(record.value)
            except msgspec.MsgspecError:
                continue
            changed |= self._hear(beat, record.timestamp)
        return changed

    def _hear(self, beat: Heartbeat, at: int) -> bool:
        if beat.id == self._me:
            if beat.sequence <= self.own_sequence:
                return False
            self.own_sequence = beat.sequence
            self._clock.set(at)
            self._forget_the_silent()
            return True  # Time has passed, and somebody may have been silent in it.
        known = self._heard.get(beat.id)
        if beat.kind != "worker" or (known is not None and beat.sequence < known.beat.sequence):
            return False
        if beat.state == "gone":
            return self._heard.pop(beat.id, None) is not None
        self._heard[beat.id] = Heard(beat, at)
        return known is None or known.beat.state != beat.state or known.beat.running != beat.running

    def _forget_the_silent(self) -> None:
        # Much later than what `_fresh` leaves out: only so that memory does not grow with workers long gone.
        oldest = self._clock.now() - 10 * self._lease_ms
        for id in [id for id, heard in self._heard.items() if heard.at < oldest]:
            del self._heard[id]

    def _fresh(self) -> Iterator[Heartbeat]:
        oldest = self._clock.now() - self._lease_ms
        return (heard.beat for heard in self._heard.values() if heard.at >= oldest)

    def idle(self, holding: Container[str]) -> list[IdleWorker]:
        """The others that wait for a job; `holding` are workers that the table shows with an attempt."""
        return [
            IdleWorker(beat.id, frozenset(beat.recipes))
            for beat in self._fresh()
            if beat.state == "idle" and beat.id not in holding
        ]

    def claiming(self) -> set[tuple[str, int]]:
        """The attempts (job, number) that others are occupied with, claims under way included."""
        return {(beat.running.job_id, beat.running.attempt) for beat in self._fresh() if beat.running is not None}
