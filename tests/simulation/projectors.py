"""Projectors: several, handing over, slow, dying with what they know, publishing late."""

from __future__ import annotations

from domain.events import AttemptStarted
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge
from tests.domain.ledger import must
from tests.simulation.world import Actor, Process, Row, World


class Cluster:
    """The projectors of the partition and the cursor that they share."""

    def __init__(self, world: World, projectors: int = 2) -> None:
        self.world = world
        self.cursor = 0
        """Stored: everything before it is committed."""
        self.projectors = [Projector(self, f"projector-{n}") for n in range(projectors)]
        self.chosen = self.projectors[0]
        """Who has the advisory lock. It may believe so longer than it is true: the cursor decides."""
        world.on_row.append(self._read_own_table)
        world.after(world.random.randint(500, 3_000), self._hand_over)

    @property
    def at_rest(self) -> bool:
        """Whether everything in the log is judged and committed."""
        return self.cursor == len(self.world.log)

    def _hand_over(self) -> None:
        if self.world.troubled:
            self.chosen = self.world.random.choice(self.projectors)
            self.chosen.doubts.update(self.world.table)  # Who starts reads the table whole.
            self.world.after(self.world.random.randint(500, 3_000), self._hand_over)
        self.world.wake(self.chosen.actor)

    def _read_own_table(self, row: Row) -> None:
        """A row older than the state is somebody's late write: it is published again."""
        self.chosen.doubts.add(row.job_id)
        self.world.wake(self.chosen.actor)


class Projector:
    """Judges batches, publishes rows, commits by compare-and-set on the cursor."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.world = cluster, cluster.world
        self.actor = Actor(name)
        self.workspace = Workspace("workspace-1")
        self.position = 0
        self.publishing_until = 0
        self.doubts: set[str] = set()
        """Jobs whose rows came by in the table and have not been compared with the state yet."""
        self.world.on_log.append(lambda: self.world.wake(self.actor))
        self.world.start(self.actor, self.live())

    def live(self) -> Process:
        """Batch after batch."""
        world = self.world
        while True:
            if self.cluster.chosen is not self:
                yield None
                continue
            if self.position < self.cluster.cursor:
                self.reload()
            self.publish(self.doubtful())
            if self.position == len(world.log):
                yield None
                continue
            start, end = self.position, min(len(world.log), self.position + world.random.randint(1, 8))
            self.publish(self.judge(start, end))
            yield world.random.randint(200, 6_000) if world.chance(0.04) else world.random.randint(1, 4)
            if self.cluster.cursor == start and not world.chance(0.02):
                self.cluster.cursor = end
            else:  # Somebody else committed first, or we died: memory is dropped.
                self.reload()

    def judge(self, start: int, end: int) -> dict[str, Row]:
        """The rows that the records of the batch bring about."""
        rows: dict[str, Row] = {}
        for offset in range(start, end):
            verdict = self._judge_one(offset)
            self.world.judged(offset, verdict)
            entry = self.world.log[offset]
            subject = entry.record.subject
            if isinstance(verdict, Effect):
                if verdict.job is not None:
                    rows[subject] = row_of(self.workspace, subject)
            elif isinstance(entry.record.event, AttemptStarted) and subject in self.workspace.jobs:
                rows[subject] = row_of(self.workspace, subject)
        self.position = end
        return rows

    def _judge_one(self, offset: int) -> Effect | Refusal:
        entry = self.world.log[offset]
        record = entry.record
        return judge(
            self.workspace, id=entry.id, subject=record.subject, actor=record.actor, event=record.event, at=entry.at
        )

    def publish(self, rows: dict[str, Row]) -> None:
        """Send rows in order, one batch after another; some arrive when they are old."""
        world = self.world
        if not rows:
            return
        delay = world.random.randint(200, 8_000) if world.chance(0.04) else world.random.randint(1, 3)
        self.publishing_until = max(self.publishing_until, world.now + delay)
        for row in rows.values():
            world.after(self.publishing_until - world.now, world.publish, row)

    def reload(self) -> None:
        """The state at the stored cursor, from what is stored alone (which is what the log says up to there)."""
        self.workspace, self.position = Workspace("workspace-1"), 0
        for offset in range(self.cluster.cursor):
            must(self._judge_one(offset) == self.world.verdicts[offset], "a replay gives the same verdicts")
        self.position = self.cluster.cursor

    def doubtful(self) -> dict[str, Row]:
        """Rows to publish again: those in the table that are older than the state."""
        doubts, self.doubts = self.doubts, set()
        return {
            job_id: row_of(self.workspace, job_id)
            for job_id in sorted(doubts)
            if job_id in self.workspace.jobs and self.world.table[job_id].version < self.workspace.jobs[job_id].version
        }


def row_of(workspace: Workspace, job_id: str) -> Row:
    """A job's row, or its tombstone."""
    job = workspace.jobs[job_id]
    return Row(job_id, job.version, None if job.is_over else job)
