"""Workers, around the real choice of a job and the real standing of an attempt. They crash, freeze and wake up as zombies."""

from __future__ import annotations

from domain.events import (
    AttemptEvent,
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
    EpochCompleted,
    JobFailed,
    JobPaused,
    JobStopped,
    ModelRegistered,
)
from domain.job import Job, Status
from schemas.heartbeat import Heartbeat, Running
from tests.domain.scenario import Record
from tests.simulation.readers import Beats, Reader
from tests.simulation.world import Process, World
from workers.claim_choice import IdleWorker, Opening, choose
from workers.standing import Standing, standing

RECIPES = frozenset({("tabular", 1)})
LEASE_MS = 3_000
REPEAT_MS = 1_000
REASSERTED_MS = 10_000
"""An attempt that was ended and that the table still shows as ours after this long is given back once more."""
SHORTEST_PATIENCE_MS = 300
"""A claim is taken back unanswered after so long at the earliest: much sooner than in earnest, and at any moment."""


class Worker(Reader):
    """One process: a new id at every start."""

    def __init__(self, world: World, beats: Beats, name: str) -> None:
        self.seen_at: dict[str, int] = {}
        self.beats = beats
        self.attempt: tuple[str, int] | None = None
        self.claimed = self.refused = False
        self.in_vain: dict[str, int] = {}
        """Jobs that were claimed in vain → when they may be claimed again though their row has not changed since.

        For ever would be wrong: by the time a refusal is noticed, the row may be a newer one that nobody claimed yet.
        """
        self.ended_at: dict[tuple[str, int], int] = {}
        """Attempts whose last record was acknowledged, and when."""
        self.given_up: set[tuple[str, int]] = set()
        """Claims that were taken back unanswered; the table may show them as ours for a moment."""
        self.colleagues: dict[str, tuple[Heartbeat, int]] = {}
        self.sequence = 0
        self.acknowledged: str | None = None
        """The record that was acknowledged last."""
        super().__init__(world, name)
        self.id = name
        beats.readers.append(self)
        world.start(self.actor, self.live())
        world.after(1, self.pulse)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def see(self, job_id: str, job: Job | None, repeated: bool) -> None:
        if job is not None and job.status is Status.QUEUED:
            self.seen_at.setdefault(job_id, self.world.now)
        else:
            self.seen_at.pop(job_id, None)
        if not repeated or (job is not None and (job_id, job.attempt + 1) in self.given_up):
            self.in_vain.pop(job_id, None)
        if self.attempt is not None and self.attempt[0] == job_id and repeated and self.claimed:
            self.refused = True
        self.world.wake(self.actor)

    def hear(self, beat: Heartbeat) -> None:
        if beat.id != self.id and beat.kind == "worker":
            before = self.colleagues.get(beat.id)
            self.colleagues[beat.id] = (beat, self.world.now)
            if before is None or before[0].state != beat.state:
                self.world.wake(self.actor)

    def pulse(self) -> None:
        """A heartbeat every second, as long as the process runs."""
        if not self.actor.alive or self.world.at_rest:
            return
        if self.world.now >= self.actor.frozen_until:
            self.sequence += 1
            running = Running(job_id=self.attempt[0], attempt=self.attempt[1]) if self.attempt else None
            self.beats.beat(
                Heartbeat(
                    id=self.id,
                    kind="worker",
                    state="busy" if running else "idle",
                    sequence=self.sequence,
                    started_at=0,
                    recipes=tuple(RECIPES),
                    running=running,
                )
            )
        self.world.after(Beats.INTERVAL_MS, self.pulse)

    # --- what it does -------------------------------------------------------------------------------------------------

    def live(self) -> Process:
        """Claim, train, report, and again."""
        while True:
            yield from self.give_back()
            again_ms = self.choose()
            if self.attempt is None:
                if again_ms is not None:
                    self.world.wake_at(self.actor, again_ms)
                if any(job.worker == self.id for job in self.rows.values()):
                    self.world.wake_at(self.actor, REASSERTED_MS)
                yield None
                continue
            self.claimed = self.refused = False
            yield from self.run(*self.attempt)
            self.attempt = None

    def choose(self) -> float | None:
        """Decide on the next attempt; else when to ask again."""
        now = self.world.now
        fresh = [beat for beat, at in self.colleagues.values() if now - at <= LEASE_MS]
        claiming = {(beat.running.job_id, beat.running.attempt) for beat in fresh if beat.running}
        holding = {job.worker for job in self.rows.values()}
        idle = [IdleWorker(b.id, RECIPES) for b in fresh if b.state == "idle" and b.id not in holding]
        openings = [
            Opening(id, job.priority, job.requested_at, ("tabular", 1), job.not_before, self.seen_at[id])
            for id, job in self.rows.items()
            if id in self.seen_at and self.in_vain.get(id, 0) <= now and (id, job.attempt + 1) not in claiming
        ]
        choice = choose(openings, [*idle, IdleWorker(self.id, RECIPES)], self.id, now)
        if choice.job_id is not None:
            self.attempt = (choice.job_id, self.rows[choice.job_id].attempt + 1)
            return None
        times = [at for at in (choice.again_at, *self.in_vain.values()) if at is not None and at > now]
        return min(times) - now + 1 if times else None

    def give_back(self) -> Process:
        """What the table grants us and we do not run."""
        for job in list(self.rows.values()):
            if job.worker == self.id and (job.id, job.attempt) in self.given_up:
                self.ended_at.setdefault((job.id, job.attempt), self.world.now)
            ended_at = self.ended_at.get((job.id, job.attempt), -REASSERTED_MS)
            if job.worker == self.id and self.world.now - ended_at >= REASSERTED_MS:
                yield from self.append(job.id, AttemptLost(attempt=job.attempt, worker=self.id, reason="released"))
                self.ended_at[job.id, job.attempt] = self.world.now

    def standing(self, job_id: str, number: int) -> Standing:
        """As of the newest row that was read."""
        return standing(self.rows.get(job_id), self.id, number)

    def append(self, job_id: str, event: AttemptEvent) -> Process:
        """One record at a time: the same bytes until they are acknowledged."""
        id = self.world.new_id()
        while self.acknowledged != id:
            self.world.send(id, Record(event, job_id, actor=self.id), lambda: self._acknowledge(id))
            sent_at = self.world.now
            while self.acknowledged != id and self.world.now < sent_at + REPEAT_MS:
                self.world.wake_at(self.actor, sent_at + REPEAT_MS - self.world.now)
                yield None

    def _acknowledge(self, id: str) -> None:
        self.acknowledged = id
        self.world.wake(self.actor)

    def run(self, job_id: str, number: int) -> Process:
        """One attempt, from the claim to its last record."""
        world, row = self.world, self.rows[job_id]
        listed = [saved.checkpoint for saved in row.checkpoints]
        start = listed[-1] if listed else None
        if listed and world.chance(0.15):
            start = world.random.choice([None, *listed])
        claim = AttemptStarted(attempt=number, worker=self.id, checkpoint=start)
        yield from self.append(job_id, claim)
        self.claimed = True
        asked_at = claimed_at = world.now
        patience = world.random.randint(SHORTEST_PATIENCE_MS, 4 * LEASE_MS)
        while self.standing(job_id, number) is Standing.OPEN:
            if self.refused:
                self.in_vain[job_id] = world.now + LEASE_MS
                return
            if world.now - claimed_at >= patience and world.troubled:
                # Free by the log alone: whatever the claim comes to, the attempt is over behind it.
                yield from self.append(job_id, AttemptLost(attempt=number, worker=self.id, reason="released"))
                self.given_up.add((job_id, number))
                self.in_vain[job_id] = world.now + 10 * LEASE_MS
                return
            if world.now - asked_at >= 2 * LEASE_MS:  # The answer may have been lost.
                yield from self.append(job_id, claim)
                asked_at = world.now
            world.wake_at(self.actor, min(2 * LEASE_MS, patience))
            yield None
        if self.standing(job_id, number) is Standing.OVER:
            return
        if start is not None and world.chance(0.1):
            yield from self.end(
                job_id,
                AttemptLost(attempt=number, worker=self.id, reason="checkpoint_unreadable", checkpoint=start),
            )
            return
        yield from self.train(job_id, number, start.epoch if start else 0)

    def train(self, job_id: str, number: int, reached: int) -> Process:
        """Epoch after epoch, as long as the table says that the attempt is ours."""
        world, attempt = self.world, {"attempt": number, "worker": self.id}
        epochs = self.rows[job_id].spec.epochs
        for epoch in range(reached + 1, epochs + 1):
            yield world.random.randint(50, 700)
            # What we know when we wake up may be old: that is what a zombie does wrong, and what is refused.
            job = self.rows.get(job_id)
            if self.standing(job_id, number) is not Standing.HELD or job is None:
                return
            if job.wanted is not None:
                yield from self.leave(job_id, number, epoch - 1, job.wanted)
                return
            if world.chance(0.04):
                yield from self.end(job_id, AttemptLost(**attempt, reason="killed"))  # type: ignore[arg-type]
                return
            if world.chance(0.02):
                yield from self.end(job_id, JobFailed(**attempt, code="exception"))  # type: ignore[arg-type]
                return
            yield from self.append(job_id, EpochCompleted(**attempt, epoch=epoch, metrics={"loss": 1 / epoch}))  # type: ignore[arg-type]
            if world.random.random() < 0.6:
                yield from self.append(job_id, self.saved(number, epoch, 100 * epoch))
        yield from self.end(
            job_id,
            ModelRegistered(**attempt, last_epoch=epochs, model="iris", files=(), metrics={}),  # type: ignore[arg-type]
        )

    def leave(self, job_id: str, number: int, epoch: int, wanted: str) -> Process:
        """Save and go, as somebody wishes."""
        yield from self.append(job_id, self.saved(number, epoch, 100 * epoch + 7))
        kind = JobStopped if wanted == "stop" else JobPaused
        yield from self.end(job_id, kind(attempt=number, worker=self.id))

    def saved(self, number: int, epoch: int, step: int) -> CheckpointSaved:
        """`CheckpointSaved`."""
        uri = f"{self.id}/{number}/{step}"
        return CheckpointSaved(attempt=number, worker=self.id, epoch=epoch, step=step, uri=uri, sha256="c" * 64)

    def end(self, job_id: str, event: AttemptEvent) -> Process:
        """The last record of the attempt."""
        yield from self.append(job_id, event)
        self.ended_at[job_id, event.attempt] = self.world.now


class Workforce:
    """As many workers as the scope says; one that dies is followed by another."""

    def __init__(self, world: World, beats: Beats) -> None:
        self.world, self.beats = world, beats
        self.started = 0
        self.workers: list[Worker] = []
        for _ in range(world.scope.workers):
            self.hire()

    def hire(self) -> None:
        """Another process, under a new id."""
        self.started += 1
        worker = Worker(self.world, self.beats, f"worker-{self.started}")
        self.workers.append(worker)
        self.fate(worker)

    def fate(self, worker: Worker) -> None:
        """What happens to it next."""
        self.world.after(self.world.random.randint(300, 3_000), self.befall, worker)

    def befall(self, worker: Worker) -> None:
        """It crashes, freezes, or is spared."""
        if not self.world.troubled:
            return
        chance = self.world.random.random()
        if chance < 0.25:
            worker.close()
            self.beats.readers.remove(worker)
            self.workers.remove(worker)
            self.world.after(self.world.random.randint(100, 4_000), self.hire)
            return
        if chance < 0.5:
            worker.actor.frozen_until = self.world.now + self.world.random.randint(500, 6_000)
            self.world.after(worker.actor.frozen_until + 1 - self.world.now, self.world.wake, worker.actor)
        self.fate(worker)
