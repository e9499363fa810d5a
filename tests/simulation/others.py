"""Supervisors, around the real count of silence, and people who ask for things at bad moments."""

from __future__ import annotations

from domain.events import (
    AttemptLost,
    Event,
    JobPauseRequested,
    JobResumed,
    JobRetried,
    JobStopRequested,
    PriorityChanged,
)
from domain.job import Job
from schemas.heartbeat import Heartbeat
from tests.domain.scenario import Record, dataset, job_spec
from tests.simulation.readers import Beats, Reader
from tests.simulation.workers import LEASE_MS
from tests.simulation.world import World
from workers.silence import Held, Silence


class Supervisor(Reader):
    """One of any number."""

    def __init__(self, world: World, beats: Beats, name: str) -> None:
        step = Beats.INTERVAL_MS / 1000
        self.silence = Silence(name, lease=LEASE_MS / 1000, step=step, partition_of=lambda worker: 0)
        self.beats, self.sequence = beats, 0
        super().__init__(world, name)
        beats.readers.append(self)
        world.after(3, self.pulse)

    def see(self, job_id: str, job: Job | None, repeated: bool) -> None:
        held = Held(job.id, job.attempt, job.worker) if job is not None and job.worker is not None else None
        self.silence.row(job_id, held)

    def hear(self, beat: Heartbeat) -> None:
        self.silence.beat(0, beat, self.world.now / 1000)
        for held in self.silence.lost():
            lost = AttemptLost(attempt=held.attempt, worker=held.worker, reason="lease_expired")
            self.send(Record(lost, held.job_id, actor=self.actor.name))

    def send(self, record: Record) -> None:
        """Proposed until acknowledged; a second proposal is refused."""
        id, arrived = self.world.new_id(), [False]

        def acknowledged() -> None:
            arrived[0] = True

        def propose() -> None:
            if not arrived[0]:
                self.world.send(id, record, acknowledged)
                self.world.after(1_000, propose)

        propose()

    def pulse(self) -> None:
        """A beat of its own, by whose return it measures."""
        if self.world.at_rest:
            return
        if self.world.now >= self.actor.frozen_until:
            self.sequence += 1
            self.beats.beat(
                Heartbeat(id=self.actor.name, kind="supervisor", state="idle", sequence=self.sequence, started_at=0)
            )
        self.world.after(Beats.INTERVAL_MS, self.pulse)


class People:
    """They ask without looking first, and repeat themselves under one id."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.jobs: list[str] = []
        world.send("dataset-1", dataset())
        for number in range(world.scope.jobs):
            self.jobs.append(f"job-{number}")
            world.after(self.random.randint(20, 1_000), self.request, f"job-{number}")
        for _ in range(world.scope.requests):
            world.after(self.random.randint(200, world.scope.trouble_ms - 100), self.ask)

    def request(self, job_id: str) -> None:
        """Somebody wants a model."""
        spec = job_spec(max_losses=self.random.randint(1, 3), epochs=self.world.scope.epochs)
        self.say(job_id, Record(spec, job_id))

    def ask(self) -> None:
        """Somebody wants something of a job."""
        job_id = self.random.choice(self.jobs)
        wishes: list[Event] = [
            *(JobStopRequested(), JobPauseRequested(), JobPauseRequested(), JobResumed(), JobResumed()),
            *(JobRetried(), JobRetried(fresh=True), PriorityChanged(priority=self.random.randint(-2, 2))),
        ]
        self.say(self.world.new_id(), Record(self.random.choice(wishes), job_id))

    def say(self, id: str, record: Record) -> None:
        """Send it, and perhaps once more."""
        self.world.send(id, record)
        if self.world.chance(0.2):
            self.world.after(self.random.randint(1, 5_000), self.world.send, id, record)
