"""Why a record was refused, in plain words, from the state that it met."""

from __future__ import annotations

from domain.events import (
    AttemptEvent,
    AttemptStarted,
    CheckpointSaved,
    EpochCompleted,
    Event,
    JobCompleted,
    JobRequested,
    ModelRegistered,
)
from domain.job import HELD, Job
from domain.refusal import Refusal

_PLAIN = {
    Refusal.UNKNOWN_JOB: "the workspace had no such job then",
    Refusal.ALREADY_OVER: "the job was over",
    Refusal.ALREADY_STOPPING: "the job was stopping already",
    Refusal.NOT_PAUSABLE: "only a queued or running job can be paused",
    Refusal.NOT_PAUSED: "only a paused or pausing job can go on",
    Refusal.NOT_RETRIABLE: "only a failed or stopped job can be tried again",
    Refusal.MISROUTED: "its key, its workspace and its partition, or its id and its subject, do not agree: none of our"
    " processes writes that",
    Refusal.UNKNOWN_TYPE: "the rules in force did not know its type",
    Refusal.UNDECODABLE: "its bytes are no record of ours; a copy lies among the dead letters",
    Refusal.RULES_OUT_OF_ORDER: "rule sets come into force one after the other, and it was not the next one's turn",
}


def reason(refusal: str, event: Event | None, before: Job | None, *, first: str | None = None) -> str:
    """The sentence. `before` is the job as it was; `first` says where a repeated request stands the first time."""
    match Refusal(refusal):
        case Refusal.DUPLICATE:
            where = f" ({first})" if first else ""
            return f"a request with this id was on the log before{where}, and the first one decides"
        case Refusal.UNKNOWN_DATASET:
            named = f" {event.dataset.id}" if isinstance(event, JobRequested) else ""
            return f"the workspace had no dataset version{named} then"
        case Refusal.UNKNOWN_CHECKPOINT:
            return _checkpoint(event, before)
        case Refusal.CLAIM_LOST:
            return _claim(event, before)
        case Refusal.FENCED:
            return _fenced(event, before)
        case Refusal.OUT_OF_ORDER:
            return _order(event, before)
        case Refusal.ALREADY_SAVED:
            step = f" at step {event.step}" if isinstance(event, CheckpointSaved) else ""
            return f"the checkpoint{step} of this attempt and epoch was known already"
        case other:
            return _PLAIN[other] + (f"; it was {before.status.value}" if before and _speaks_of_status(other) else "")


def _speaks_of_status(refusal: Refusal) -> bool:
    return refusal in (Refusal.ALREADY_OVER, Refusal.NOT_PAUSABLE, Refusal.NOT_PAUSED, Refusal.NOT_RETRIABLE)


def _claim(event: Event | None, before: Job | None) -> str:
    if before is None or not isinstance(event, AttemptStarted):
        return "the job was not queued, or another claim of this attempt came first"
    if before.status in HELD and event.attempt == before.attempt:
        return f"the claim of {before.worker} came first, at version {before.version} or before"
    if before.status in HELD:
        return f"{before.worker} was holding attempt {before.attempt}"
    if event.attempt != before.attempt + 1:
        return f"it claims attempt {event.attempt}, and the next one was {before.attempt + 1}"
    return f"the job was not queued: it was {before.status.value}"


def _fenced(event: Event | None, before: Job | None) -> str:
    if before is None or not isinstance(event, AttemptEvent):
        return "the attempt was over, or held by another worker"
    if event.attempt > before.attempt:
        return f"attempt {event.attempt} had not begun; the last one was {before.attempt}"
    if event.attempt < before.attempt:
        return f"attempt {event.attempt} was over, and attempt {before.attempt} had begun: its worker was still talking"
    if before.status in HELD and event.worker != before.worker:
        return f"attempt {event.attempt} was held by {before.worker}, not by {event.worker}"
    lost = f" ({before.loss.replace('_', ' ')})" if before.loss else ""
    return (
        f"attempt {event.attempt} was over{lost}: the job was {before.status.value}, and its worker was still talking"
    )


def _order(event: Event | None, before: Job | None) -> str:
    if before is not None:
        if isinstance(event, EpochCompleted):
            return f"it reports epoch {event.epoch}, and epoch {before.epoch + 1} was next"
        if isinstance(event, CheckpointSaved):
            return f"it saves epoch {event.epoch}, and the last one that counts was {before.epoch}"
        if isinstance(event, ModelRegistered | JobCompleted):
            return f"it ends after epoch {event.last_epoch}, and the last one that counts was {before.epoch}"
    return "it does not follow the last epoch that counts"


def _checkpoint(event: Event | None, before: Job | None) -> str:
    if before is None or not isinstance(event, AttemptStarted) or event.checkpoint is None:
        return "it starts from a checkpoint that is not an effective one of the job"
    named = event.checkpoint
    what = f"the checkpoint of attempt {named.attempt}, epoch {named.epoch}, step {named.step}"
    if named.attempt <= before.dropped_through:
        return f"{what} was dropped when the job was retried from the beginning"
    return f"{what} was never saved with those bytes, or was found unreadable"
