"""Who has been silent too long: a state machine that is fed with beats, rows and the time, and does no I/O.

A supervisor beats too, into every partition of the heartbeats. When its own beat comes back, everything that was written
into that partition before it has been read. So a worker's silence is counted from one returning beat of ours to the next,
never more than a step of it at a time: while the broker is away or this process is frozen, nothing returns and nobody's
silence grows; and when it is over, whoever is alive has time to be heard first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from schemas.heartbeat import Heartbeat


class Held(NamedTuple):
    """An attempt that the table shows as somebody's."""

    job_id: str
    attempt: int
    worker: str


@dataclass(slots=True)
class _Worker:
    partition: int
    silent: float = 0.0
    """Seconds, counted over time in which our own beats came back."""
    sequence: int = 0


class Silence:
    """Feed it; `lost` says which attempts to give up on. Seconds are of any clock that never goes back."""

    def __init__(self, me: str, *, lease: float, step: float, partition_of: Callable[[str], int]) -> None:
        """`step` is the time between two beats of ours; no more than twice that is counted at once."""
        self._me = me
        self._lease = lease
        self._longest_step = 2 * step
        self._partition_of = partition_of
        self._returned: dict[int, float] = {}
        """Partition → when our newest beat came back."""
        self._sequences: dict[int, int] = {}
        self._workers: dict[str, _Worker] = {}
        self._held: dict[str, Held] = {}
        self._reported: dict[Held, float] = {}
        """Those given up on → how silent the worker must be before that is said again."""

    def beat(self, partition: int, beat: Heartbeat, now: float) -> None:
        """A beat was read."""
        if beat.id == self._me:
            self._own_beat(partition, beat.sequence, now)
        elif beat.kind == "worker":
            self._worker_beat(partition, beat)

    def row(self, job_id: str, held: Held | None) -> None:
        """The newest row of a job: who holds which attempt of it, if anybody."""
        before = self._held.pop(job_id, None)
        if before is not None and before != held:
            self._reported.pop(before, None)
        if held is not None:
            self._held[job_id] = held
            # One that was never heard of is silent from when its claim was seen.
            self._workers.setdefault(held.worker, _Worker(self._partition_of(held.worker)))

    def lost(self) -> list[Held]:
        """The attempts whose workers are silent now; each once, and again after twice, four times … the silence."""
        found = []
        for held in self._held.values():
            silent = self._workers[held.worker].silent
            if silent >= self._reported.get(held, self._lease):
                # A record that was acknowledged can still be lost with a broker's power; then it is said again.
                self._reported[held] = max(2 * self._lease, 2 * silent)
                found.append(held)
        return found

    def silence_of(self, worker: str) -> float | None:
        """For how many counted seconds it has been silent; None for one that is not known."""
        known = self._workers.get(worker)
        return known.silent if known is not None else None

    def _own_beat(self, partition: int, sequence: int, now: float) -> None:
        if sequence <= self._sequences.get(partition, 0):
            return  # Read a second time, after a reconnection.
        self._sequences[partition] = sequence
        before = self._returned.get(partition)
        self._returned[partition] = now
        if before is None:
            return
        step = min(now - before, self._longest_step)
        for worker in self._workers.values():
            if worker.partition == partition:
                worker.silent += step
        self._forget_the_long_silent()

    def _worker_beat(self, partition: int, beat: Heartbeat) -> None:
        known = self._workers.get(beat.id)
        if known is not None and beat.sequence <= known.sequence:
            return
        if beat.state == "gone":
            # It gave back what it held before it said so. What it still holds after one more step, nobody serves.
            known = self._workers.setdefault(beat.id, _Worker(partition))
            known.silent = max(known.silent, self._lease - self._longest_step / 2)
        else:
            known = self._workers.setdefault(beat.id, _Worker(partition))
            known.silent = 0.0
        known.partition, known.sequence = partition, beat.sequence

    def _forget_the_long_silent(self) -> None:
        # Those that hold nothing: a worker's id is new at every start, so every restart leaves one behind.
        if len(self._workers) > 2 * len(self._held) + 100:
            holding = {held.worker for held in self._held.values()}
            self._workers = {
                id: worker for id, worker in self._workers.items() if id in holding or worker.silent < 10 * self._lease
            }
