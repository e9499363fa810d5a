"""P: what the projector published. The facts are what took effect, in order; the table shows each job as it is."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from checker.fold import OVER, Fold
from checker.history import History, LogRecord
from checker.violation import Violation

VERSION_HEADER = "ravand_version"


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """All of P, of a run that has come to rest."""
    if history.facts is not None:
        yield from _facts(history.facts, fold)
    if history.table is not None:
        yield from _table(history.table, fold)


def _facts(records: list[LogRecord], fold: Fold) -> Iterator[Violation]:
    """P1: taken as readers take them (only what is newer), the facts are each effective record once, in order."""
    effective: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for verdict in fold.verdicts:
        if verdict.version is not None and verdict.document is not None:
            effective[verdict.record.partition, verdict.workspace].append(verdict.document)
    reached: dict[tuple[int, str], int] = defaultdict(int)
    for record in records:
        fact = json.loads(record.value or b"{}")
        stream = (record.partition, fact["workspace"])
        version, expected = fact["version"], effective[stream]
        where = f"workspace {fact['workspace']}, partition {record.partition}, offset {record.offset}"
        if version > reached[stream] + 1:
            yield Violation("P1", f"after the fact of version {reached[stream]} came {version} ({where})")
        if not 1 <= version <= len(expected) or any(
            fact.get(name) != value for name, value in expected[version - 1].items()
        ):
            yield Violation("P1", f"the fact of version {version} is not the record that took effect ({where})")
        reached[stream] = max(reached[stream], version)
    for stream, expected in effective.items():
        if reached[stream] != len(expected):
            yield Violation("P1", f"the facts of workspace {stream[1]} end at {reached[stream]} of {len(expected)}")


def _table(records: list[LogRecord], fold: Fold) -> Iterator[Violation]:
    """P2: the newest row of each job, by the version in its header, is the job; of one that is over, a tombstone.

    And nobody who reads on for ever is left with an older row: the newest comes last.
    """
    newest: dict[str, tuple[int, LogRecord]] = {}
    last: dict[str, int] = {}
    for record in records:
        job_id = (record.key or b"").decode()
        version = int(dict(record.headers).get(VERSION_HEADER, b"0"))
        if version >= newest.get(job_id, (0, record))[0]:
            newest[job_id] = version, record
        last[job_id] = version
    for job in fold.jobs.values():
        if job.id not in newest:
            yield Violation("P2", f"the table has no row of job {job.id}")
            continue
        version, record = newest[job.id]
        row = json.loads(record.value)["job"] if record.value else None
        if version != job.version:
            yield Violation("P2", f"the newest row of job {job.id} is of version {version}; it is at {job.version}")
        elif (row is None) != (job.status in OVER) or (row and row["status"] != job.status):
            yield Violation("P2", f"the row of job {job.id} is {row and row['status']}; the job is {job.status}")
        elif last[job.id] != version:
            yield Violation("P2", f"the last row of job {job.id} is of version {last[job.id]}, older than {version}")
