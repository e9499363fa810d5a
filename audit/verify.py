"""Verifies an installation: the log against the journal, the chain against its heads, and every row against the fold.

All of it against one snapshot of the database, so it may run while everything works. Partitions are independent of each other:
each is checked by one process, several at a time.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka.errors import KafkaError

from adapters.kafka import topic_name
from adapters.postgres import patient_options
from adapters.settings import Settings
from audit import rows_check, segments
from audit.expected import Expected
from audit.findings import Break, PartitionReport, Report, in_order
from audit.log_reader import SILENT_SECONDS, LogReader, bounds
from audit.partition_check import PartitionCheck
from audit.seals import Anchor, Head, valid_seals
from projections.tables import PROJECTED
from schemas.topics import EVENTS

_CURSORS = """
SELECT p.partition, coalesce(c.next_offset, 0) AS next_offset, coalesce(c.published, 0) AS published,
       coalesce(c.rules, 1) AS rules, coalesce(c.chain, decode(repeat('00', 32), 'hex')) AS chain,
       coalesce((SELECT max(j."offset") + 1 FROM log.journal j WHERE j.partition = p.partition), 0) AS journal_end
  FROM generate_series(0, $1 - 1) AS p(partition) LEFT JOIN log.cursors c ON c.partition = p.partition
 ORDER BY p.partition
"""
_TOLD_EVERY = 2_000
# A partition's rows lie nearly in the order in which they are asked for, and the keys' own order needs no sort. The planner
# takes them for scattered, and would collect and sort them on disk, and look through all of a table for each partition: 10 µs
# of PostgreSQL's CPU a record instead of 5.
_IN_ORDER = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
}


@dataclass(frozen=True)
class Work:
    """What one process is to check, in a form that can be sent to it."""

    settings: Settings
    snapshot: str
    cursor: Mapping[str, Any]
    anchors: tuple[Head, ...]
    seals: tuple[Head, ...]
    silent_seconds: float


@dataclass
class Wishes:
    """How to verify."""

    anchor: Anchor | None = None
    key: bytes | None = None
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    segments: Path | None = None
    """The data folder of a broker on this machine, to check the bytes on its disk too."""
    silent_seconds: float = SILENT_SECONDS
    """How long the broker may keep a record back before the log counts as unreadable there."""


Told = Callable[[int, int], None]
"""Hears how many records were checked, and how many there are."""


_OUTAGES = (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class NotVerifiable(Exception):
    """Kafka or PostgreSQL could not be reached, so nothing can be said."""


@asynccontextmanager
async def _connected(settings: Settings, snapshot: str | None = None) -> Any:
    """A connection in a read-only transaction that sees one moment; `snapshot` joins that of another."""
    # Whoever verifies reads for minutes, and one moment of the database has to last that long.
    connection = await asyncpg.connect(**patient_options(settings.database, name="audit", session=_IN_ORDER))
    try:
        # It ends with the connection: there is nothing to take back, and who was cancelled may have lost the connection.
        await connection.transaction(isolation="repeatable_read", readonly=True).start()
        if snapshot is not None:
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        yield connection
    finally:
        await connection.close()


async def verify(settings: Settings, wishes: Wishes, told: Told = lambda done, of: None) -> Report:
    """Everything, against the database as it is now. Raises `NotVerifiable`."""
    try:
        return await _verify(settings, wishes, told)
    except _OUTAGES as error:
        raise NotVerifiable(f"{type(error).__name__}: {error}") from error
    except BrokenExecutor:
        raise NotVerifiable("a process of the verification was killed, perhaps for want of memory") from None


async def _verify(settings: Settings, wishes: Wishes, told: Told) -> Report:
    began, cpu = time.monotonic(), time.process_time()
    async with _connected(settings) as connection:
        # Before the snapshot, for as long as it lasts: tables that a rebuild swapped in between would seem to be empty in it.
        await connection.execute(f"LOCK TABLE {', '.join(PROJECTED)} IN ACCESS SHARE MODE")
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        log_id = str(await connection.fetchval("SELECT log_id FROM log.history"))
        cursors = [dict(row) for row in await connection.fetch(_CURSORS, EVENTS.partitions)]
        # Read after the snapshot was taken, so the log is at least as long as what was judged of it.
        for number, (first, end) in (await bounds(settings.kafka)).items():
            cursors[number] |= {"log_first": first, "log_end": end}
        torn = [found for cursor in cursors if (found := _torn(cursor)) is not None]
        seals, notes, breaks = await _seals(connection, log_id, wishes)
        shared = await _shared_with(connection, wishes.anchor, log_id)
        breaks += _foreign(wishes.anchor, log_id, shared)
        heads = wishes.anchor.heads if wishes.anchor is not None else ()
        if shared and wishes.anchor is not None:
            breaks += _not_restored(heads, shared)
            heads = tuple(head for head in heads if head.next_offset <= shared.get(head.partition, 0))
            notes.append(f"the anchor is of the log {wishes.anchor.log_id}, which this one was restored from")
        elif wishes.anchor is not None and wishes.anchor.log_id != log_id:
            heads = ()
        breaks += _beyond(heads, cursors, "anchor")
        breaks += _beyond(seals, cursors, "seal")
        if wishes.segments is not None:
            breaks += await asyncio.to_thread(_segments, settings, wishes.segments, cursors)
        works = [
            Work(settings, snapshot, cursor, heads, tuple(seals), wishes.silent_seconds)
            for cursor in sorted(cursors, key=lambda c: -c["next_offset"])
            if cursor["next_offset"] > 0 and not any(found.partition == cursor["partition"] for found in breaks)
        ]
        reports = await _spread(works, wishes.processes, told)
        breaks += torn + [found for report in reports for found in report.breaks]
        breaks += await rows_check.strays(connection, [c["partition"] for c in cursors if c["next_offset"] > 0])
    unjudged = sum(max(0, cursor["log_end"] - cursor["next_offset"]) for cursor in cursors)
    if wishes.anchor is None:
        notes.append("no anchor file was given: a log and a journal that were rewritten alike would not be noticed")
    return Report(
        ok=not breaks,
        log_id=log_id,
        records=sum(r.records for r in reports),
        bytes=sum(r.bytes for r in reports),
        effective=sum(r.effective for r in reports),
        refused=sum(r.refused for r in reports),
        restored=sum(r.restored for r in reports),
        unjudged=unjudged,
        rows=sum(r.rows for r in reports),
        seals=sum(r.seals for r in reports),
        anchors=sum(r.anchors for r in reports),
        seconds=round(time.monotonic() - began, 3),
        # What ran in this very process is in its own time already.
        cpu_seconds=round(sum(r.cpu_seconds for r in reports if r.pid != os.getpid()) + time.process_time() - cpu, 3),
        breaks=in_order(breaks),
        notes=notes,
    )


def _segments(settings: Settings, folder: Path, cursors: list[dict[str, Any]]) -> list[Break]:
    name = topic_name(settings.kafka, EVENTS)
    found = (segments.check(folder / f"{name}-{c['partition']}", c["partition"], c["next_offset"]) for c in cursors)
    return [wrong for wrong in found if wrong is not None]


def _torn(cursor: Mapping[str, Any]) -> Break | None:
    if cursor["journal_end"] == cursor["next_offset"]:
        return None
    return Break(
        what="cursor_differs",
        detail=f"the cursor stands at {cursor['next_offset']}, and the journal ends at {cursor['journal_end']}",
        partition=cursor["partition"],
        offset=min(cursor["journal_end"], cursor["next_offset"]),
        table="log.cursors",
        row=str(cursor["partition"]),
    )


async def _seals(connection: Any, log_id: str, wishes: Wishes) -> tuple[list[Head], list[str], list[Break]]:
    rows = await connection.fetch(
        "SELECT partition, next_offset, log_id, chain, at, signature FROM audit.seals WHERE log_id = $1", log_id
    )
    if wishes.key is None:
        notes = [f"{len(rows)} seals were not checked, since there is no key"] if rows else []
        return [], notes, []
    right, wrong = valid_seals(rows, wishes.key)
    breaks = [
        Break(
            what="seal_forged",
            detail="its signature is not that of the key: the seal was altered, or made with another key",
            partition=head.partition,
            offset=head.next_offset,
            table="audit.seals",
            row=f"{head.partition} {head.next_offset}",
        )
        for head in wrong
    ]
    return right, [], breaks


async def _shared_with(connection: Any, anchor: Anchor | None, log_id: str) -> dict[int, int]:
    """Up to where each partition is that of the anchor's log, when this one was restored from a backup of it."""
    if anchor is None or anchor.log_id == log_id:
        return {}
    query = "SELECT partition, next_offset FROM log.ancestors WHERE log_id = $1"
    return {row["partition"]: row["next_offset"] for row in await connection.fetch(query, anchor.log_id)}


def _not_restored(heads: tuple[Head, ...], shared: Mapping[int, int]) -> list[Break]:
    """The anchor was made after the backup: what came between is not in this history."""
    return [
        Break(
            what="anchor_beyond",
            detail=f"the anchor file knows the history up to offset {head.next_offset}, and the backup that this log was"
            f" restored from ended at {shared.get(head.partition, 0)}: what came between was not restored",
            partition=head.partition,
            offset=shared.get(head.partition, 0),
        )
        for head in heads
        if head.next_offset > shared.get(head.partition, 0)
    ]


def _foreign(anchor: Anchor | None, log_id: str, shared: Mapping[int, int]) -> list[Break]:
    if anchor is None or anchor.log_id == log_id or shared:
        return []
    detail = f"the anchor is of the log {anchor.log_id}, and this is {log_id}, which was not restored from that one"
    return [Break(what="anchor_foreign", detail=detail, table="log.history", row=log_id)]


def _beyond(heads: tuple[Head, ...] | list[Head], cursors: list[dict[str, Any]], kind: str) -> list[Break]:
    ends = {cursor["partition"]: cursor["next_offset"] for cursor in cursors}
    source = "the anchor file" if kind == "anchor" else "a seal"
    return [
        Break(
            what=f"{kind}_beyond",
            detail=f"{source} knows the history up to offset {head.next_offset}, and it ends at"
            f" {ends.get(head.partition, 0)}: what came after was cut off",
            partition=head.partition,
            offset=ends.get(head.partition, 0),
        )
        for head in heads
        if head.next_offset > ends.get(head.partition, 0)
    ]


# --- one partition ----------------------------------------------------------------------------------------------------


async def check_partition(work: Work, told: Callable[[int], None]) -> PartitionReport:
    """One partition, in this process."""
    began = time.process_time()
    settings, cursor = work.settings, work.cursor
    partition: int = cursor["partition"]
    async with (
        _connected(settings, work.snapshot) as journal,
        _connected(settings, work.snapshot) as requests,
    ):
        snapshots = await _snapshots(journal, partition)
        check = PartitionCheck(
            LogReader(settings.kafka, partition, silent_seconds=work.silent_seconds),
            cursor,
            expected := Expected(snapshots),
            anchors={h.next_offset: h for h in work.anchors if h.partition == partition},
            seals={h.next_offset: h for h in work.seals if h.partition == partition},
            told=told,
        )
        await check.run(journal, requests)
        if not check.report.breaks:
            rows, breaks = await rows_check.check(requests, partition, check.fold.workspaces, expected)
            check.report.rows += rows
            check.report.breaks += breaks
    check.report.cpu_seconds, check.report.pid = time.process_time() - began, os.getpid()
    return check.report


async def _snapshots(connection: Any, partition: int) -> dict[tuple[str, int], tuple[str, bytes]]:
    rows = await connection.fetch(
        "SELECT s.workspace, s.version, s.job_id, sha256(s.state) AS hash FROM audit.job_states s"
        " WHERE s.workspace IN (SELECT workspace FROM log.workspaces WHERE partition = $1)",
        partition,
    )
    return {(row["workspace"], row["version"]): (row["job_id"], row["hash"]) for row in rows}


# --- several processes ------------------------------------------------------------------------------------------------

_shared: Any = None


def _begin(counter: Any) -> None:
    global _shared  # What a process of the pool is given at its start can be kept nowhere else.
    _shared = counter


def _count(count: int) -> None:
    with _shared.get_lock():
        _shared.value += count


def _run(work: Work) -> PartitionReport:
    """In a process of the pool."""
    import uvloop

    # What the fold holds is no garbage: looking through it again and again would cost a fifth of the time.
    gc.set_threshold(200_000, 50, 100)
    try:
        return uvloop.run(check_partition(work, _count))
    except _OUTAGES as error:
        # As an error that can be sent to another process, which those of the drivers cannot all be.
        raise NotVerifiable(f"{type(error).__name__}: {error}") from None


async def _spread(works: list[Work], processes: int, told: Told) -> list[PartitionReport]:
    """The largest partitions first, so that the last ones to finish are small."""
    total = sum(work.cursor["next_offset"] for work in works)
    if processes < 2 or len(works) < 2 or total < _TOLD_EVERY:
        return [report async for report in _one_by_one(works, total, told)]
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(min(processes, len(works)), context, _begin, (counter,)) as pool:
        loop = asyncio.get_running_loop()
        running = [loop.run_in_executor(pool, _run, work) for work in works]
        waiting = asyncio.gather(*running)
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=0.2)
            told(counter.value, total)
        told(counter.value, total)
        return await waiting


async def _one_by_one(works: list[Work], total: int, told: Told) -> Any:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        told(done, total)

    for work in works:
        yield await check_partition(work, count)


def sentences(report: Report) -> Iterator[str]:
    """The report for a person."""
    if report.ok:
        yield (
            f"Nothing is broken: {report.records:,} records ({report.effective:,} effective, {report.refused:,} refused)"
            f" and {report.rows:,} rows are what the log says."
        )
    else:
        first = report.breaks[0]
        yield f"The first break is at {first.place()}: {first.detail}. ({first.what})"
        for found in report.breaks[1:10]:
            yield f"  also at {found.place()}: {found.detail}. ({found.what})"
        if len(report.breaks) > 10:
            yield f"  and {len(report.breaks) - 10} more"
    rate = report.records / report.seconds if report.seconds else 0
    yield f"{report.records:,} records in {report.seconds:.1f} s ({rate:,.0f}/s), log {report.log_id}"
    if report.anchors or report.seals:
        yield f"{report.anchors} heads of the anchor file and {report.seals} signed seals are right."
    if report.restored:
        yield (
            f"{report.restored:,} records were lost by the broker once and completed from the journal; their times are the"
            " journal's, which are in the hash chain."
        )
    if report.unjudged:
        yield f"{report.unjudged:,} records at the end of the log are not judged yet, and were not checked."
    for note in report.notes:
        yield f"Note: {note}."
