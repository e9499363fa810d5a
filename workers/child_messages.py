"""What a worker and its training child say to each other, over a pipe, as msgspec-encoded tagged structs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.events import Checkpoint, DatasetRef, StoredFile


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One message; its type name is on the wire."""


# --- worker → child --------------------------------------------------------------------------------------------------


class Train(Message, frozen=True, kw_only=True):
    """Train this attempt. Sent once; the child trains one attempt and exits."""

    workspace: str
    job_id: str
    attempt: int
    recipe: str
    recipe_version: int
    parameters: Mapping[str, Any]
    epochs: int
    dataset: DatasetRef
    checkpoint: Checkpoint | None
    store_url: str
    scratch: str
    """A private folder for this attempt, removed by the worker afterwards."""
    device: str | None
    """`cuda:0`, `cpu`, ... or None for the best there is."""
    threads: int


class Go(Message, frozen=True, kw_only=True):
    """The table shows the attempt as this worker's: results count from here. Preparing may precede it, training may not."""


class Leave(Message, frozen=True, kw_only=True):
    """Finish the step, save a checkpoint, exit."""


# --- child → worker --------------------------------------------------------------------------------------------------


class Prepared(Message, frozen=True, kw_only=True):
    """Data and model are in place; waits for `Go`."""


class StepMeasured(Message, frozen=True, kw_only=True):
    """Telemetry of a step that logs: latest wins, may be dropped. Steps count from the beginning of the job."""

    epoch: int
    step: int
    metrics: Mapping[str, float]
    time: float


class Logged(Message, frozen=True, kw_only=True):
    """A line that the training function logged or printed."""

    stream: str
    text: str
    time: float


class EpochDone(Message, frozen=True, kw_only=True):
    """One epoch with its metrics; only finite numbers."""

    epoch: int
    metrics: Mapping[str, float]
    seconds: float


class CheckpointWritten(Message, frozen=True, kw_only=True):
    """A checkpoint is whole in the object store."""

    epoch: int
    step: int
    uri: str
    sha256: str
    best: bool


class ModelWritten(Message, frozen=True, kw_only=True):
    """Training is over and the model's files are whole in the object store."""

    last_epoch: int
    files: tuple[StoredFile, ...]
    metrics: Mapping[str, float]


class Left(Message, frozen=True, kw_only=True):
    """Answer to `Leave`: the newest checkpoint, if any, was written before."""


class Failed(Message, frozen=True, kw_only=True):
    """The attempt can't succeed by trying again (`JobFailed`), or was lost to the surroundings (`AttemptLost`)."""

    code: str
    """`exception`, `unusable_data`, `diverged` (failures); `out_of_memory`, `device_error`, `checkpoint_unreadable`,
    `store_away`, `dataset_unreadable` (surroundings)."""
    exception: str | None
    text: str
    """Message and traceback, for the log object; never on the event log."""


ToChild = Train | Go | Leave
ToWorker = Prepared | StepMeasured | Logged | EpochDone | CheckpointWritten | ModelWritten | Left | Failed
