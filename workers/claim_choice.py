"""Which job an idle worker claims: one pure function of what every worker sees, so that idle workers do not all claim the same.

Jobs are taken by priority, then age. The first job goes to the first idle worker (by id) that has its recipe, the next job
to the next one, and so on: the k-th idle worker takes the k-th job. A worker that does not take what is its turn, perhaps
because it is dead and not yet known to be, is passed over after a moment: the second in line may then claim, later the
third. When two workers see different things, both may claim; the order of the log decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import NamedTuple

Recipe = tuple[str, int]
"""Name and version."""

PATIENCE_MS = 1000
"""How long a job waits for each worker whose turn it is before the next in line may claim it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A queued job, as one worker sees it. Times are the broker's, in milliseconds."""

    job_id: str
    priority: int
    requested_at: int
    recipe: Recipe
    not_before: int
    seen_at: int
    """When this worker first saw it queued."""

    @property
    def open_since(self) -> int:
        """Since when it could have been claimed."""
        return max(self.not_before, self.seen_at)


@dataclass(frozen=True, slots=True)
class IdleWorker:
    """A worker that waits for a job."""

    id: str
    recipes: Set[Recipe]


class Choice(NamedTuple):
    """What to claim now, if anything; and when to ask again, if only time has to pass."""

    job_id: str | None
    again_at: int | None


def choose(openings: Iterable[Opening], idle: Iterable[IdleWorker], me: str, now: int) -> Choice:
    """The job that `me`, one of the idle workers, is to claim. All of them compute the same from the same."""
    free = sorted(idle, key=lambda worker: worker.id)
    again_at: int | None = None
    queue: list[tuple[int, int, str, Opening]] = []
    for job in openings:
        if job.not_before <= now:
            queue.append((-job.priority, job.requested_at, job.job_id, job))
        elif again_at is None or job.not_before < again_at:
            again_at = job.not_before  # Also of a recipe that is not ours: it takes somebody out of the line before us.
    heapq.heapify(queue)
    while queue:
        job = heapq.heappop(queue)[-1]
        line = [worker for worker in free if job.recipe in worker.recipes]
        if not line:
            continue
        place = next((place for place, worker in enumerate(line) if worker.id == me), None)
        if place is not None:
            turn_at = job.open_since + place * PATIENCE_MS
            if place == 0 or turn_at <= now:
                return Choice(job.job_id, None)
            if again_at is None or turn_at < again_at:
                again_at = turn_at
        free.remove(line[0])
    return Choice(None, again_at)
