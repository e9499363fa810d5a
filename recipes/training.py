"""What a training function is given and what it yields. The rest (messages, checkpoints, files) is its caller's.

A recipe's training function takes a `TrainingRun` and is a generator: it yields `Ready` once data and model are in place,
then `StepResult`s and one `EpochResult` an epoch, and at the end `Trained`; or `Interrupted`, when told to leave. It may
raise `UnusableData` or `Diverged`. It knows neither the log, nor the worker, nor where files are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.dataset_profile import DatasetFormat

if TYPE_CHECKING:
    from torch import Tensor

StateDict = Mapping[str, Any]
"""Nested dictionaries, lists and tuples of tensors, texts, numbers and None: what a checkpoint can hold without pickle."""
Metrics = Mapping[str, float]


class UnusableData(Exception):
    """Nothing can be learned from this dataset with these parameters; trying again would not help."""


class Diverged(Exception):
    """The loss is no finite number any more."""


def never() -> bool:
    """Nobody asks."""
    return False


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One attempt at a job, as its training function sees it."""

    parameters: Any
    """An instance of the recipe's own parameter model."""
    epochs: int
    dataset: Path
    format: DatasetFormat
    device: str
    state: StateDict | None = None
    """What `state_dict` returned when the attempt to go on from was saved; None starts from the beginning."""
    leave: Callable[[], bool] = never
    """Whether to yield `Interrupted` at the next step."""
    logs_now: Callable[[], bool] = never
    """Whether this step's values are worth reading; it is for the clock to say, and cheap to ask."""
    log: Callable[[str], None] = field(default=print)


@dataclass(frozen=True, slots=True)
class Ready:
    """Data and model are in place, the state is restored; the next result trains."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Measurements of one optimizer step; `step` counts from the beginning of the job."""

    epoch: int
    step: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One pass over the data is done. `state_dict` must be called before the next result is asked for, or not at all."""

    epoch: int
    metrics: Metrics
    seconds: float
    best: bool
    """Whether no earlier epoch was better by the recipe's own measure."""
    state_dict: Callable[[], StateDict]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Training left off after `step` steps of the epoch that follows `epoch`. It is the last result."""

    epoch: int
    step: int
    state_dict: Callable[[], StateDict]


@dataclass(frozen=True, slots=True)
class Trained:
    """Training is over. It is the last result."""

    last_epoch: int
    metrics: Metrics
    """Those of the epoch whose weights these are."""
    best_epoch: int
    weights: Mapping[str, Tensor]
    manifest: Mapping[str, Any]
    """All that prediction needs beside the weights, as JSON: columns, categories, scaling, labels, sizes."""


Result = Ready | StepResult | EpochResult | Interrupted | Trained
Training = Callable[[TrainingRun], Iterator[Result]]
