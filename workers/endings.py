"""How an attempt ended, as the one record that says so: a pure function of what the child said and how it died."""

from __future__ import annotations

from dataclasses import dataclass

from domain.events import (
    AttemptEvent,
    AttemptLost,
    Checkpoint,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobStopped,
    LossReason,
    ModelRegistered,
    ObjectRef,
)
from workers.child_messages import Failed, Left, ModelWritten
from workers.child_process import Ended

FAILURES = frozenset({"exception", "unusable_data", "diverged", "unusable_report"})
"""Codes of what trying again would repeat."""
SURROUNDINGS: dict[str, LossReason] = {
    "out_of_memory": "out_of_memory",
    "device_error": "device_error",
    "checkpoint_unreadable": "checkpoint_unreadable",
    # Another worker may reach what this one cannot: handed back, not counted.
    "store_away": "released",
    "dataset_unreadable": "released",
    "no_child": "released",
}


LastWord = ModelWritten | Failed | Left
"""After one of these a child says nothing more that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known when the child is gone, or has said its last word."""

    said: LastWord | None
    ended: Ended | None
    """None while it still runs after its last word."""
    told_to_leave: bool
    """Whether it was told to, or was killed for not leaving in time."""

    @property
    def is_bad(self) -> bool:
        """Whether somebody will want to read what it wrote last."""
        return isinstance(self.said, Failed) or (self.said is None and not self.told_to_leave)


def record_of(
    ending: Ending,
    *,
    attempt: int,
    worker: str,
    model: str,
    wanted: str | None,
    start: Checkpoint | None,
    log: ObjectRef | None = None,
) -> AttemptEvent:
    """The record that ends the attempt. `wanted` is what the table shows now, `start` the checkpoint that was claimed."""
    match ending.said:
        case ModelWritten(files=()) as written:
            return JobCompleted(attempt=attempt, worker=worker, last_epoch=written.last_epoch)
        case ModelWritten() as written:
            return ModelRegistered(
                attempt=attempt,
                worker=worker,
                last_epoch=written.last_epoch,
                model=model,
                files=written.files,
                metrics=written.metrics,
            )
        case Failed(code=code, exception=exception) if code in FAILURES:
            return JobFailed(attempt=attempt, worker=worker, code=code, exception=exception, log=log)
        case Failed(code=code):
            reason = SURROUNDINGS.get(code, "killed")
            struck = start if reason == "checkpoint_unreadable" else None
            return AttemptLost(attempt=attempt, worker=worker, reason=reason, checkpoint=struck, log=log)
    if ending.told_to_leave:
        return _left(attempt, worker, wanted)
    out_of_memory = ending.ended is not None and ending.ended.out_of_memory
    return AttemptLost(attempt=attempt, worker=worker, reason="out_of_memory" if out_of_memory else "killed", log=log)


def _left(attempt: int, worker: str, wanted: str | None) -> AttemptEvent:
    match wanted:
        case "stop":
            return JobStopped(attempt=attempt, worker=worker)
        case "pause":
            return JobPaused(attempt=attempt, worker=worker)
        case _:
            # The worker leaves, or the wish was withdrawn when the child had gone already.
            return AttemptLost(attempt=attempt, worker=worker, reason="released")
