"""What the read model must hold after the records of one partition, kept as small as it can be compared.

A partition has as many epochs as records, so epochs and checkpoints are kept as one running hash for each attempt; the rest
is as large as the read model's own rows of jobs, datasets and models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from struct import Struct
from typing import Any

import msgspec

from audit.fold import Judged
from domain.events import CheckpointSaved, EpochCompleted, Event, JobRequested
from domain.workspace import Effect
from projections.reading import Refused
from schemas.envelope import Envelope

_encode = msgspec.json.Encoder().encode
_epoch = Struct(">iqqi").pack
_checkpoint = Struct(">iqqi").pack
_length = Struct(">i").pack
AttemptKey = tuple[str, str, int]
"""Workspace, job, attempt."""


class Group:
    """The rows of one attempt in one table: how many, and the hash over them in order."""

    __slots__ = ("count", "hash")

    def __init__(self) -> None:
        self.count = 0
        self.hash = hashlib.sha256()


class Expected:
    """Filled by `take` in log order; read by `audit.rows_check`."""

    def __init__(self, snapshots: dict[tuple[str, int], tuple[str, bytes]]) -> None:
        self.epochs: dict[AttemptKey, Group] = {}
        self.checkpoints: dict[AttemptKey, Group] = {}
        self.struck: set[tuple[str, str, int, int, int]] = set()
        self.requested: dict[tuple[str, str], int] = {}
        self.datasets: dict[tuple[str, str], tuple[str, int, int, bytes]] = {}
        """Name, number, version and the hash of the state."""
        self.models: dict[tuple[str, str, int], tuple[int, str, bytes]] = {}
        """Version, job and the hash of the state."""
        self.wrong_snapshot: tuple[str, str, int] | None = None
        """The first snapshot that is not what the fold comes to: workspace, job, version."""
        self.found_snapshots = 0
        self.snapshots = snapshots
        """Job and hash by workspace and version; those that no record was met for are left over."""

    def take(self, judged: Judged, at: int, offset: int) -> None:
        """Take note of an effective record."""
        said, effect = judged.said, judged.effect
        assert type(said) is not Refused and effect is not None  # noqa: PT018
        event, workspace, job, version = said.data, said.workspace, effect.job, effect.version
        if type(event) is EpochCompleted:  # Most are.
            metrics = _encode(event.metrics)
            group = self._group(self.epochs, (workspace, said.subject, event.attempt))
            group.count += 1
            group.hash.update(_epoch(event.epoch, version, at, len(metrics)) + metrics)
        else:
            self._take_rarely(said, event, effect, version)
        if job is not None and self.snapshots and (kept := self.snapshots.pop((workspace, version), None)) is not None:
            self.found_snapshots += 1
            if self.wrong_snapshot is None and kept != (job.id, digest(_encode(job))):
                self.wrong_snapshot = (workspace, job.id, version)

    def _take_rarely(self, said: Envelope, event: Event, effect: Effect, version: int) -> None:
        workspace = said.workspace
        if type(event) is CheckpointSaved:
            group = self._group(self.checkpoints, (workspace, said.subject, event.attempt))
            group.count += 1
            group.hash.update(checkpoint_bytes(event.epoch, event.step, version, event.uri, event.sha256))
        elif type(event) is JobRequested:
            self.requested[workspace, said.subject] = version
        if effect.struck is not None:
            struck = effect.struck
            self.struck.add((workspace, said.subject, struck.attempt, struck.epoch, struck.step))
        if (dataset := effect.dataset) is not None:
            state = digest(_encode(dataset))
            self.datasets[workspace, dataset.id] = (dataset.name, dataset.number, dataset.version, state)
        if (model := effect.model) is not None:
            self.models[workspace, model.name, model.number] = (model.version, model.job_id, digest(_encode(model)))

    def _group(self, groups: dict[AttemptKey, Group], key: AttemptKey) -> Group:
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group()
        return group


def digest(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def checkpoint_bytes(epoch: int, step: int, version: int, uri: str, sha256: str) -> bytes:
    """A checkpoint's row for its attempt's hash."""
    where, what = uri.encode(), sha256.encode()
    return b"".join((_checkpoint(epoch, step, version, len(where)), where, _length(len(what)), what))


EPOCHS = """
SELECT workspace, job_id, attempt, count(*)::bigint AS count, sha256(string_agg(
           int4send(epoch) || int8send(version) || int8send(at) || int4send(length(metrics)) || metrics, ''::bytea
           ORDER BY epoch)) AS hash
  FROM read.epochs WHERE workspace = ANY($1) GROUP BY workspace, job_id, attempt
"""
CHECKPOINTS = """
SELECT workspace, job_id, attempt, count(*)::bigint AS count, sha256(string_agg(
           int4send(epoch) || int8send(step) || int8send(version) || int4send(octet_length(uri)) || convert_to(uri, 'UTF8')
           || int4send(octet_length(sha256)) || convert_to(sha256, 'UTF8'), ''::bytea ORDER BY version)) AS hash
  FROM read.checkpoints WHERE workspace = ANY($1) GROUP BY workspace, job_id, attempt
"""


def groups_differ(group: Group | None, row: Mapping[str, Any]) -> bool:
    """Whether an attempt's rows are not the ones that the log made."""
    return group is None or group.count != row["count"] or group.hash.digest() != row["hash"]
