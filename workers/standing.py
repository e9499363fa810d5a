"""What the table of open jobs says about an attempt that a worker has claimed."""

from __future__ import annotations

from enum import Enum

from domain.job import Job


class Standing(Enum):
    """The worker's rights, as of the newest row."""

    OPEN = "open"
    """The attempt is not decided on: the claim has not been judged, or was refused for another reason than the race."""
    HELD = "held"
    """The attempt is this worker's: it counts."""
    OVER = "over"
    """The attempt is somebody else's, or over, or the job is: nothing that this worker says of it counts any more."""


def standing(job: Job | None, worker: str, attempt: int) -> Standing:
    """How `worker` stands with `attempt` when the table shows `job` (None: it is over)."""
    if job is None:
        return Standing.OVER
    if job.is_held_by(worker, attempt):
        return Standing.HELD
    return Standing.OVER if job.attempt >= attempt else Standing.OPEN
