"""What judging a stretch of one partition brings about: rows to store, and messages to publish."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from domain.job import Job
from domain.workspace import Dataset, Model

Row = tuple[Any, ...]

JOURNAL: Final = (
    "partition",
    "offset",
    "at",
    "id",
    "type",
    "workspace",
    "subject",
    "actor",
    "version",
    "refusal",
    "key",
    "value",
    "headers",
    "tail",
    "hash",
)
"""The columns of a journal row, in the order of the tuples."""
OFFSET, TYPE, VERSION, REFUSAL, KEY, VALUE, HEADERS, TAIL, HASH = (
    JOURNAL.index(name) for name in ("offset", "type", "version", "refusal", "key", "value", "headers", "tail", "hash")
)


@dataclass(slots=True)
class Batch:
    """A judged stretch: from the position `start` up to, not including, `end`."""

    partition: int
    start: int
    end: int
    rules: int
    chain: bytes
    journal: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    struck: list[Row] = field(default_factory=list)
    """(workspace, job, attempt, epoch, step) of checkpoints that nobody may start from any more."""
    datasets: list[tuple[str, Dataset]] = field(default_factory=list)
    models: list[tuple[str, Model]] = field(default_factory=list)
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict)
    """The last state of each job that changed."""
    requested: dict[tuple[str, str], int] = field(default_factory=dict)
    """The versions at which jobs of this batch were requested."""
    shown: dict[tuple[str, str], Job] = field(default_factory=dict)
    """Jobs that did not change and whose row is published again all the same."""
    workspaces: dict[str, int] = field(default_factory=dict)
    """The versions of the workspaces in which something took effect."""
    errors: dict[int, str] = field(default_factory=dict)
    """By offset: why bytes could not be decoded."""
    generation: int = 0
    """Of the tables that it was judged on."""
