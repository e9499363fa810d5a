"""R: the rows equal the fold of the log, row by row, and so do the journal, its verdicts and its hash chain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from checker.fold import Fold
from checker.history import History
from checker.violation import Violation


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """All of R that a dump after quiescence can show."""
    yield from _jobs(history, fold)
    yield from _epochs(history, fold)
    yield from _datasets(history, fold)
    yield from _models(history, fold)
    yield from _checkpoints(history, fold)
    yield from _requests(history, fold)
    yield from _workspaces(history, fold)
    yield from _journal(history, fold)
    yield from _chain(history)
    yield from _cursors(history)
    yield from _reads(history, fold)


def _compare(name: str, table: str, rows: dict[Any, Any], expected: dict[Any, Any]) -> Iterator[Violation]:
    for key in sorted(expected.keys() - rows.keys(), key=str):
        yield Violation(name, f"{table} lacks the row {key}")
    for key in sorted(rows.keys() - expected.keys(), key=str):
        yield Violation(name, f"{table} has the row {key}, which the log does not")
    for key in sorted(rows.keys() & expected.keys(), key=str):
        if rows[key] != expected[key]:
            yield Violation(name, f"{table} row {key} is {rows[key]}, the log says {expected[key]}")


def _jobs(history: History, fold: Fold) -> Iterator[Violation]:
    if "jobs" not in history.rows:
        return
    columns = ("status", "attempt", "worker", "epoch", "losses", "priority", "requested_version", "version", "previous")
    rows = {
        (r["workspace"], r["job_id"]): (*(r[c] for c in columns), r["checkpoints"], r["model"])
        for r in history.rows["jobs"]
    }
    expected = {
        key: (
            *(getattr(job, c) for c in columns),
            job.listed,
            {"name": job.model[0], "number": job.model[1]} if job.model else None,
        )
        for key, job in fold.jobs.items()
    }
    yield from _compare("R1", "jobs", rows, expected)


def _epochs(history: History, fold: Fold) -> Iterator[Violation]:
    if "epochs" not in history.rows:
        return
    rows: dict[Any, Any] = {}
    for r in history.rows["epochs"]:
        key = (r["workspace"], r["job_id"], r["attempt"], r["epoch"])
        if key in rows:
            yield Violation("R3", f"epochs has {key} twice")
        rows[key] = (r["metrics"], r["version"])
    expected = {key: (epoch["metrics"], epoch["version"]) for key, epoch in fold.epochs.items()}
    yield from _compare("R1", "epochs", rows, expected)


def _datasets(history: History, fold: Fold) -> Iterator[Violation]:
    if "datasets" not in history.rows:
        return
    columns = ("name", "number", "sha256", "version")
    rows = {(r["workspace"], r["dataset_id"]): tuple(r[c] for c in columns) for r in history.rows["datasets"]}
    expected = {key: tuple(d[c] for c in columns) for key, d in fold.datasets.items()}
    yield from _compare("R1", "datasets", rows, expected)


def _models(history: History, fold: Fold) -> Iterator[Violation]:
    if "models" not in history.rows:
        return
    rows = {(r["workspace"], r["name"], r["number"]): (r["job_id"], r["version"]) for r in history.rows["models"]}
    expected = {
        (workspace, name, v["number"]): (v["job_id"], v["version"])
        for (workspace, name), versions in fold.models.items()
        for v in versions
    }
    yield from _compare("R1", "models", rows, expected)


def _checkpoints(history: History, fold: Fold) -> Iterator[Violation]:
    if "checkpoints" not in history.rows:
        return
    columns = ("uri", "sha256", "version", "struck")
    key = ("workspace", "job_id", "attempt", "epoch", "step")
    rows = {tuple(r[c] for c in key): tuple(r[c] for c in columns) for r in history.rows["checkpoints"]}
    expected = {name: tuple(saved[c] for c in columns) for name, saved in fold.checkpoints.items()}
    yield from _compare("R1", "checkpoints", rows, expected)


def _requests(history: History, fold: Fold) -> Iterator[Violation]:
    if "requests" not in history.rows:
        return
    columns = ("partition", "offset", "version", "refusal")
    rows = {(r["workspace"], r["id"]): tuple(r[c] for c in columns) for r in history.rows["requests"]}
    expected = {key: (v.record.partition, v.record.offset, v.version, v.refusal) for key, v in fold.requests.items()}
    yield from _compare("R1", "requests", rows, expected)


def _workspaces(history: History, fold: Fold) -> Iterator[Violation]:
    if "workspaces" not in history.rows:
        return
    rows = {(r["partition"], r["workspace"]): r["version"] for r in history.rows["workspaces"] if r["version"]}
    yield from _compare("R1", "workspaces", rows, fold.versions)


def _journal(history: History, fold: Fold) -> Iterator[Violation]:
    if "journal" not in history.rows:
        return
    rows = {
        (r["partition"], r["offset"]): (r["version"], r["refusal"], bytes(r["value"] or b""))
        for r in history.rows["journal"]
    }
    expected = {
        (v.record.partition, v.record.offset): (v.version, v.refusal, v.record.value or b"") for v in fold.verdicts
    }
    yield from _compare("R1", "journal", rows, expected)


def chain(previous: bytes, at: int, key: bytes | None, value: bytes | None) -> bytes:
    """The hash of a record in its partition's chain: over (previous, time, key, value), each with its length.

    Lengths are unsigned 32-bit and big-endian, 0xFFFFFFFF for null; the time is signed 64-bit milliseconds.
    """
    digest = hashlib.sha256()
    for part in (previous, at.to_bytes(8, "big", signed=True), key, value):
        digest.update((0xFFFFFFFF if part is None else len(part)).to_bytes(4, "big"))
        digest.update(part or b"")
    return digest.digest()


def _chain(history: History) -> Iterator[Violation]:
    heads: dict[int, bytes] = {}
    for row in sorted(history.rows.get("journal", ()), key=lambda r: (r["partition"], r["offset"])):
        if "hash" not in row:
            return
        head = chain(heads.get(row["partition"], bytes(32)), row["at"], row["key"], row["value"])
        if head != bytes(row["hash"]):
            yield Violation("A2", f"the hash chain of partition {row['partition']} breaks at offset {row['offset']}")
            return
        heads[row["partition"]] = head


def _cursors(history: History) -> Iterator[Violation]:
    for row in history.rows.get("cursors", ()):
        end = history.ends.get(row["partition"])
        if end is not None and row["next_offset"] != end:
            yield Violation(
                "R2", f"partition {row['partition']} ends at {end} and its cursor stands at {row['next_offset']}"
            )


def _reads(history: History, fold: Fold) -> Iterator[Violation]:
    """R4: a session's reads never go back, and one that asked for a version is not answered from before it."""
    reached: dict[str, int] = {}
    newest = {workspace: version for (_, workspace), version in fold.versions.items()}
    for read in history.reads:
        if read.version is None:
            continue
        least = max(read.asked, reached.get(read.session, 0))
        if read.version < least:
            yield Violation("R4", f"{read.session} was answered from version {read.version} after {least}")
        if read.version > newest.get(read.workspace, 0):
            yield Violation("R4", f"{read.session} was answered from version {read.version}, which never was")
        reached[read.session] = max(least, read.version)
