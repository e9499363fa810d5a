"""Every event of a workspace, as frozen values. Names are facts in the past tense.

A record's envelope (who, when, which workspace) lives in `schemas.envelope`; here is only what happened. Fields are only
ever added, optional; a breaking change is a new schema version with a pure upcaster (`schemas.upcast`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec

MetricName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Metrics = Annotated[Mapping[MetricName, float], msgspec.Meta(max_length=256)]
"""Finite numbers by name. Bounded, since a job's row in its table repeats them with each of its newest checkpoints."""
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A count that every JSON reader and a bigint can hold."""
Ordinal = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""A number that counts from 1: attempts, epochs of a plan, losses allowed."""
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
Sha256 = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
LossReason = Literal[
    "lease_expired",
    "released",
    "killed",
    "out_of_memory",
    "device_error",
    "checkpoint_unreadable",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. Subclasses are the vocabulary of the log."""

    is_request: ClassVar[bool] = False
    """Whether people ask for it, under an event id that decides once (protocol: judging)."""
    schema_version: ClassVar[int] = 1


class DatasetRef(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable dataset version, with all that a worker needs to read it."""

    id: Id
    uri: Uri
    sha256: Sha256
    format: Name


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A saved training state: complete in the object store under `uri`, with the hash of its bytes."""

    attempt: Ordinal
    epoch: Epoch
    step: Natural
    uri: Uri
    sha256: Sha256


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a model version in the object store."""

    name: Name
    uri: Uri
    sha256: Sha256
    bytes: Natural


class ObjectRef(msgspec.Struct, frozen=True, kw_only=True):
    """An object that a record refers to instead of carrying it: profiles, log excerpts, exception texts."""

    uri: Uri
    sha256: Sha256


# --- datasets -------------------------------------------------------------------------------------------------------


class DatasetRegistered(Event, frozen=True, kw_only=True):
    """An upload is whole, content-addressed and profiled. The dataset version's id is the request's event id."""

    is_request: ClassVar[bool] = True

    name: Name
    uri: Uri
    sha256: Sha256
    format: Name
    bytes: Natural
    rows: Natural
    profile: ObjectRef


# --- jobs: what people ask for ---------------------------------------------------------------------------------------


class JobRequested(Event, frozen=True, kw_only=True):
    """A training job with all that a run depends on; the job's id is the request's event id."""

    is_request: ClassVar[bool] = True

    name: Name
    recipe: Name
    recipe_version: Ordinal
    parameters: Mapping[str, Any]
    """Complete: defaults are filled in, so no process's settings change what the job means."""
    epochs: Ordinal
    dataset: DatasetRef
    model: Name
    """The name under which the trained model is registered."""
    max_losses: Ordinal
    priority: Priority = 0


class JobStopRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the job to end. Overrides a wish to pause."""

    is_request: ClassVar[bool] = True


class JobPauseRequested(Event, frozen=True, kw_only=True):
    """Somebody wants the job to rest, keeping what it has reached."""

    is_request: ClassVar[bool] = True


class JobResumed(Event, frozen=True, kw_only=True):
    """A paused job goes on; a pausing one withdraws the wish."""

    is_request: ClassVar[bool] = True


class JobRetried(Event, frozen=True, kw_only=True):
    """A failed or stopped job is queued again; `fresh` drops its checkpoints."""

    is_request: ClassVar[bool] = True

    fresh: bool = False


class PriorityChanged(Event, frozen=True, kw_only=True):
    """The job moves in the queue: higher goes first."""

    is_request: ClassVar[bool] = True

    priority: Priority


# --- jobs: what workers and supervisors report -----------------------------------------------------------------------


class AttemptEvent(Event, frozen=True, kw_only=True):
    """Something about one attempt, by the worker that holds it (or, for a loss, by a supervisor naming that worker)."""

    attempt: Ordinal
    worker: Name


class AttemptStarted(AttemptEvent, frozen=True, kw_only=True):
    """A claim: the first one in the log wins. Names the checkpoint to start from, if any."""

    checkpoint: Checkpoint | None = None


class EpochCompleted(AttemptEvent, frozen=True, kw_only=True):
    """One pass over the data is done. Written once per epoch and attempt, in order."""

    epoch: Epoch
    metrics: Metrics
    seconds: Seconds | None = None
    """How long the epoch took, for ETA; a measurement."""


class CheckpointSaved(AttemptEvent, frozen=True, kw_only=True):
    """A checkpoint is complete in the object store; a later attempt may name it."""

    epoch: Epoch
    step: Natural
    uri: Uri
    sha256: Sha256
    best: bool = False
    """Whether it is the best so far by the recipe's own measure; the worker keeps it longer."""

    def checkpoint(self) -> Checkpoint:
        """The value by which claims name it."""
        return Checkpoint(
            attempt=self.attempt,
            epoch=self.epoch,
            step=self.step,
            uri=self.uri,
            sha256=self.sha256,
        )


class JobStopped(AttemptEvent, frozen=True, kw_only=True):
    """The attempt has ended as it was told to."""


class JobPaused(AttemptEvent, frozen=True, kw_only=True):
    """The attempt has ended for a rest."""


class AttemptLost(AttemptEvent, frozen=True, kw_only=True):
    """The attempt is over without an end of its own. `released` was handed back and does not count."""

    reason: LossReason
    checkpoint: Checkpoint | None = None
    """With `checkpoint_unreadable`: the one that could not be read."""
    log: ObjectRef | None = None
    """The last lines that the training child wrote, where there were any."""


class ModelRegistered(AttemptEvent, frozen=True, kw_only=True):
    """The end of a training job and the model's next version, in one record."""

    last_epoch: Epoch
    model: Name
    files: tuple[StoredFile, ...]
    metrics: Metrics


class JobCompleted(AttemptEvent, frozen=True, kw_only=True):
    """The end of a job that gives no model."""

    last_epoch: Epoch


class JobFailed(AttemptEvent, frozen=True, kw_only=True):
    """The attempt ended in a way that trying again would repeat."""

    code: Name
    """Stable: `exception`, `unusable_data`, `diverged`, ..."""
    exception: Name | None = None
    """The exception's type name; its text may quote data and stays in the object `log`."""
    log: ObjectRef | None = None


# --- the partition ---------------------------------------------------------------------------------------------------


class RulesActivated(Event, frozen=True, kw_only=True):
    """From here on rule set `rules` judges this partition."""

    rules: Ordinal


# --- the platform, in the workspace `system` (rule set 2) ---------------------------------------------------------------

Projections = Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
"""Names of read models."""


class SystemEvent(Event, frozen=True, kw_only=True):
    """Something that an administrator did to the platform, for the record; the subject is the run's id."""

    is_request: ClassVar[bool] = True

    projections: Projections


class ProjectionsRebuildStarted(SystemEvent, frozen=True, kw_only=True):
    """These read models are made anew from the log, beside the live ones."""


class ProjectionsRebuilt(SystemEvent, frozen=True, kw_only=True):
    """They are made, and were compared with the live ones, row by row."""

    records: Natural
    """Judged anew, from the beginning of the log."""
    rows: Natural
    """That they come to."""
    differing_rows: Natural
    """Rows of the live ones that were not as the log says."""
    differing_verdicts: Natural
    """Verdicts of the journal that are not what the log comes to."""


class ProjectionsSwapped(SystemEvent, frozen=True, kw_only=True):
    """From here on the new ones are read; those before are kept for a rollback."""


class ProjectionsRolledBack(SystemEvent, frozen=True, kw_only=True):
    """Those that the last swap had replaced are read again."""


class ProjectionsRebuildCancelled(SystemEvent, frozen=True, kw_only=True):
    """What had been made of the new ones is thrown away; the live ones are as they were."""


REQUESTS: tuple[type[Event], ...] = (
    DatasetRegistered,
    JobRequested,
    JobStopRequested,
    JobPauseRequested,
    JobResumed,
    JobRetried,
    PriorityChanged,
)
REPORTS: tuple[type[AttemptEvent], ...] = (
    AttemptStarted,
    EpochCompleted,
    CheckpointSaved,
    JobStopped,
    JobPaused,
    AttemptLost,
    ModelRegistered,
    JobCompleted,
    JobFailed,
)
SYSTEM: tuple[type[SystemEvent], ...] = (
    ProjectionsRebuildStarted,
    ProjectionsRebuilt,
    ProjectionsSwapped,
    ProjectionsRolledBack,
    ProjectionsRebuildCancelled,
)
EVENTS: tuple[type[Event], ...] = (*REQUESTS, *REPORTS, RulesActivated, *SYSTEM)
