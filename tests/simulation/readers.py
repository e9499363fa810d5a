"""A reader of the table and of heartbeats: what it knows is late, but never goes back."""

from __future__ import annotations

from domain.job import Job
from schemas.heartbeat import Heartbeat
from tests.simulation.world import Actor, Row, World


class Reader:
    """What a worker and a supervisor have in common."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.actor = Actor(name)
        self.rows: dict[str, Job] = {}
        self.versions: dict[str, int] = {}
        self._read_until = 0
        for row in list(world.table.values()):  # What compaction left, which may be older than what was known before.
            self.take(row)
        world.on_row.append(self._arrives)

    def close(self) -> None:
        """The process is gone."""
        self.actor.alive = False
        self.world.on_row.remove(self._arrives)

    def _arrives(self, row: Row) -> None:
        world = self.world
        delay = world.random.randint(100, 5_000) if world.chance(0.03) else world.random.randint(1, 5)
        self._read_until = max(self._read_until, world.now + delay, self.actor.frozen_until + 1)
        world.after(self._read_until - world.now, self._read, row)

    def _read(self, row: Row) -> None:
        if not self.actor.alive:
            return
        if self.world.now < self.actor.frozen_until:
            # Whoever wakes up first does what it was about to do, and reads afterwards.
            self.world.after(self.actor.frozen_until + 20 - self.world.now, self._read, row)
            return
        self.take(row)

    def take(self, row: Row) -> None:
        """Apply the row unless a newer one is known."""
        if row.version < self.versions.get(row.job_id, 0):
            return
        repeated = row.version == self.versions.get(row.job_id)
        self.versions[row.job_id] = row.version
        if row.job is None:
            self.rows.pop(row.job_id, None)
        else:
            self.rows[row.job_id] = row.job
        self.see(row.job_id, row.job, repeated)

    def see(self, job_id: str, job: Job | None, repeated: bool) -> None:
        """There was news of the job."""
        raise NotImplementedError

    def hear(self, beat: Heartbeat) -> None:
        """Somebody's heartbeat arrived."""
        raise NotImplementedError


class Beats:
    """The heartbeats topic: everybody hears everybody, in the order in which it was written."""

    INTERVAL_MS = 1_000

    def __init__(self, world: World) -> None:
        self.world = world
        self.readers: list[Reader] = []

    def beat(self, beat: Heartbeat) -> None:
        """Write one."""
        self.world.after(2, self._deliver, beat)

    def _deliver(self, beat: Heartbeat) -> None:
        for reader in self.readers:
            if reader.actor.alive and self.world.now >= reader.actor.frozen_until:
                reader.hear(beat)
