"""The fold of a log, computed plainly from the raw records, and its comparison with every row that is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from adapters.kafka import partition_of
from domain.events import CheckpointSaved, EpochCompleted, JobRequested, RulesActivated, SystemEvent
from domain.rules import admit
from domain.workspace import Effect, Workspace, judge
from schemas import facts
from schemas.envelope import UndecodableRecord, UnknownType, decode
from schemas.job_view import view

Tables = dict[str, dict[Any, Any]]
_encode = msgspec.json.encode


def fold_of(records: Iterable[Any]) -> Tables:
    """What the tables must hold after these records (as a consumer reads them, each partition in order)."""
    return _Fold().over(records)


class _Fold:
    def __init__(self) -> None:
        self.workspaces: dict[tuple[int, str], Workspace] = {}
        self.rules: dict[int, int] = {}
        self.tables: Tables = {
            name: {}
            for name in (
                *("cursors", "journal", "requests", "workspaces"),
                *("jobs", "epochs", "checkpoints", "datasets", "models", "facts"),
            )
        }

    def over(self, records: Iterable[Any]) -> Tables:
        for record in records:
            self._one(record)
        for (partition, name), workspace in self.workspaces.items():
            if workspace.version:
                self.tables["workspaces"][name, partition] = workspace.version
        return self.tables

    def _one(self, record: Any) -> None:
        partition, offset, at, key, value = record.partition, record.offset, record.timestamp, record.key, record.value
        before = self.tables["cursors"].get(partition, (0, 1, bytes(32)))
        chain = _hashed(before[2], at, key, value)
        said, verdict = self._verdict(record)
        effective = isinstance(verdict, Effect)
        self.tables["cursors"][partition] = (offset + 1, self.rules.get(partition, 1), chain)
        self.tables["journal"][partition, offset] = (
            *(at, said.get("id", ""), said.get("type", ""), said.get("workspace", ""), said.get("subject", "")),
            *(verdict.version if effective else None, None if effective else str(verdict), key, value, chain),
        )

    def _verdict(self, record: Any) -> tuple[dict[str, str], Any]:
        try:
            envelope = decode(record.value)
        except UndecodableRecord:
            return {}, "undecodable"
        except UnknownType as unknown:
            said = unknown.header
            return {
                "id": said.id,
                "type": said.type,
                "workspace": said.workspace,
                "subject": said.subject,
            }, "unknown_type"
        event, name, partition = envelope.data, envelope.workspace, record.partition
        said_of_it = {
            "id": envelope.id,
            "type": "ravand." + type(event).__name__,
            "workspace": name,
            "subject": envelope.subject,
        }
        if isinstance(event, SystemEvent) and self.rules.get(partition, 1) < 2:
            return said_of_it, "unknown_type"
        system = isinstance(event, RulesActivated | SystemEvent)
        if (name == "system") is not system or record.key != name.encode():
            return said_of_it, "misrouted"
        workspace = self.workspaces.setdefault((partition, name), Workspace(name))
        if isinstance(event, RulesActivated):
            refusal = admit(self.rules.get(partition, 1), event)
            if refusal is not None:
                return said_of_it, refusal
            self.rules[partition] = event.rules
            workspace.version += 1
            return said_of_it, Effect(version=workspace.version)
        if partition_of(record.key, 12) != partition:
            return said_of_it, "misrouted"
        first = event.is_request and envelope.id not in workspace.requests
        verdict = judge(
            workspace,
            id=envelope.id,
            subject=envelope.subject,
            actor=envelope.actor,
            event=event,
            at=record.timestamp,
        )
        effect = verdict if isinstance(verdict, Effect) else None
        if first:
            self.tables["requests"][name, envelope.id] = (
                *(partition, record.offset, said_of_it["type"], envelope.subject),
                *(effect.version if effect else None, None if effect else str(verdict), envelope.requesthash),
            )
        if effect:
            self._rows(name, envelope, effect, record)
        return said_of_it, verdict

    def _rows(self, workspace: str, envelope: Any, effect: Effect, record: Any) -> None:
        tables, event, job = self.tables, envelope.data, effect.job
        if workspace == "system":
            return
        if job is not None:
            requested = tables["jobs"].get((workspace, job.id), (0, 0, 0, 0))[2]
            if isinstance(event, JobRequested):
                requested = effect.version
            tables["jobs"][workspace, job.id] = (job.status.value, job.priority, requested, job.version, _encode(job))
        if isinstance(event, EpochCompleted):
            row = (effect.version, record.timestamp, _encode(event.metrics))
            tables["epochs"][workspace, envelope.subject, event.attempt, event.epoch] = row
        if isinstance(event, CheckpointSaved):
            key = (workspace, envelope.subject, event.attempt, event.epoch, event.step)
            tables["checkpoints"][key] = (event.uri, event.sha256, effect.version, False)
        if (struck := effect.struck) is not None:
            key = (workspace, envelope.subject, struck.attempt, struck.epoch, struck.step)
            tables["checkpoints"][key] = (*tables["checkpoints"][key][:3], True)
        if (dataset := effect.dataset) is not None:
            state = (dataset.name, dataset.number, dataset.version, _encode(dataset))
            tables["datasets"][workspace, dataset.id] = state
        if (model := effect.model) is not None:
            tables["models"][workspace, model.name, model.number] = (model.version, model.job_id, _encode(model))
        tables["facts"][workspace, effect.version] = facts.splice(
            record.value,
            version=effect.version,
            previous=job.previous if job else 0,
            at=record.timestamp,
            job=view(job) if job else None,
        )


def _hashed(previous: bytes, at: int, key: bytes | None, value: bytes | None) -> bytes:
    hashed = hashlib.sha256()
    for part in (previous, at.to_bytes(8, "big", signed=True), key, value):
        hashed.update((0xFFFFFFFF if part is None else len(part)).to_bytes(4, "big"))
        hashed.update(part or b"")
    return hashed.digest()


_STORED = {
    "cursors": (1, "SELECT partition, next_offset, rules, chain FROM log.cursors WHERE next_offset > 0"),
    "journal": (
        2,
        'SELECT partition, "offset", at, id, type, workspace, subject, version, refusal, key, value, hash FROM log.journal',
    ),
    "requests": (
        2,
        'SELECT workspace, id, partition, "offset", type, subject, version, refusal, requesthash FROM log.requests',
    ),
    "workspaces": (2, "SELECT workspace, partition, version FROM log.workspaces"),
    "jobs": (2, "SELECT workspace, job_id, status, priority, requested_version, version, state FROM read.jobs"),
    "epochs": (4, "SELECT workspace, job_id, attempt, epoch, version, at, metrics FROM read.epochs"),
    "checkpoints": (
        5,
        "SELECT workspace, job_id, attempt, epoch, step, uri, sha256, version, struck FROM read.checkpoints",
    ),
    "datasets": (2, "SELECT workspace, dataset_id, name, number, version, state FROM read.datasets"),
    "models": (3, "SELECT workspace, name, number, version, job_id, state FROM read.models"),
}


async def stored(database: asyncpg.Connection) -> Tables:
    """What the tables hold, as `fold_of` gives it."""
    tables: Tables = {}
    async with database.transaction(isolation="repeatable_read", readonly=True):
        for name, (keys, statement) in _STORED.items():
            rows = [tuple(row) for row in await database.fetch(statement)]
            single = name == "cursors"
            tables[name] = {(row[0] if single else row[:keys]): row[keys:] for row in rows}
        tables["workspaces"] = {key: row[0] for key, row in tables["workspaces"].items()}
        tails = await database.fetch(
            "SELECT workspace, version, value, tail FROM log.journal WHERE version IS NOT NULL"
        )
        tables["facts"] = {(row[0], row[1]): facts.join(row[2], row[3]) for row in tails if row[0] != "system"}
    return tables


def compare(expected: Tables, found: Tables) -> None:
    """Every table equal, or the first rows that differ."""
    for name, rows in expected.items():
        differing = [key for key in rows.keys() | found[name].keys() if rows.get(key) != found[name].get(key)]
        shown = [(key, rows.get(key), found[name].get(key)) for key in sorted(differing, key=str)[:3]]
        assert not differing, f"{len(differing)} rows of {name} differ (key, fold, stored): {shown}"


async def published_facts(records: Iterable[Any]) -> dict[tuple[str, int], bytes]:
    """The facts of a topic by workspace and version; two that differ under one version are an error."""
    found: dict[tuple[str, int], bytes] = {}
    for record in records:
        version = int(dict(record.headers)[facts.VERSION_HEADER])
        kept = found.setdefault((record.key.decode(), version), record.value)
        assert kept == record.value, f"two facts of {record.key!r} have version {version}"
    return found
