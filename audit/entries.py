"""Records with their verdicts, streamed: from the journal, or from the log itself with the verdicts computed anew.

However many records there are, only a chunk of them is in memory; from the log also the folded state of the workspaces
that are wanted, since no verdict can be had without it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import msgspec

from adapters.settings import KafkaSettings
from audit.fold import Fold
from audit.log_reader import LogReader, bounds
from audit.selection import Selection
from domain.events import Event
from domain.job import Job
from projections.reading import home, read
from schemas.envelope import PREFIX, Envelope, UndecodableRecord, UnknownType, decode
from schemas.topics import EVENTS

_CHUNK = 2_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the log and what came of it. `type` is the bare name; empty where the bytes cannot be read."""

    partition: int
    offset: int
    at: int
    id: str
    type: str
    workspace: str
    subject: str
    actor: str
    version: int | None
    refusal: str | None
    envelope: Envelope | None
    """None where this build cannot decode the bytes."""
    value: bytes | None
    model_number: int = 0
    """Of a `ModelRegistered` that took effect: the number that the model's version was given."""
    before: Job | msgspec.UnsetType | None = msgspec.UNSET
    """The job before the record, where reading the record has told it."""

    @property
    def event(self) -> Event | None:
        """What happened, or was meant to."""
        return self.envelope.data if self.envelope is not None else None


class _Tail(msgspec.Struct):
    class _Job(msgspec.Struct):
        class _Model(msgspec.Struct):
            number: int

        model: _Model | None = None

    job: _Job | None = None


_tail = msgspec.json.Decoder(_Tail)


async def from_journal(connection: Any, selection: Selection) -> AsyncGenerator[Entry, None]:
    """The selected records in the order of the log, partition after partition, as they are stored."""
    for partition in _partitions(selection):
        wanted, last = await _offsets(connection, selection, partition)
        query, arguments = _query(selection, partition, last)
        # A dataset's models are told by the requests before them, which may lie before what is wanted.
        first = 0 if selection.remembers else wanted
        while True:
            rows = await connection.fetch(query, first, *arguments)
            for row in rows:
                entry = _of_row(row)
                if selection.matches(entry) and entry.offset >= wanted:
                    yield entry
            if len(rows) < _CHUNK:
                break
            first = rows[-1]["offset"] + 1


def _partitions(selection: Selection) -> Iterable[int]:
    if selection.workspace is not None:
        return [home(selection.workspace.encode())]
    return range(EVENTS.partitions)


async def _offsets(connection: Any, selection: Selection, partition: int) -> tuple[int, int | None]:
    """The offsets between which the wanted versions lie; refused records between them belong to them too."""
    if selection.versions is None or selection.workspace is None:
        return 0, None
    low, high = selection.versions
    query = 'SELECT "offset" FROM log.journal WHERE workspace = $1 AND version = $2 AND partition = $3'
    # From behind the version before, so that what was refused on the way to the first one is seen.
    first = await connection.fetchval(query, selection.workspace, low - 1, partition)
    last = await connection.fetchval(query, selection.workspace, high, partition)
    return (0 if first is None else first + 1), last


def _query(selection: Selection, partition: int, last: int | None) -> tuple[str, list[Any]]:
    arguments: list[Any] = [partition]
    conditions = ['"offset" >= $1', "partition = $2"]

    def add(condition: str, value: Any) -> None:
        arguments.append(value)
        conditions.append(condition.format(f"${len(arguments) + 1}"))

    if last is not None:
        add('"offset" <= {}', last)
    if selection.workspace is not None:
        add("workspace = {}", selection.workspace)
    if selection.subject is not None:
        add("subject = {}", selection.subject)
    if selection.actor is not None and not selection.remembers:
        add("actor = {}", selection.actor)
    if selection.since is not None and not selection.remembers:
        add("at >= {}", selection.since)
    if selection.until is not None:
        add("at <= {}", selection.until)
    if (types := selection.types) is not None:
        add("type = ANY({})", [PREFIX + name for name in sorted(types)])
    if selection.verdict is not None and not selection.remembers:
        conditions.append("version IS NOT NULL" if selection.verdict == "effective" else "version IS NULL")
    # Every value is a parameter; what is put together here are the conditions above alone.
    return (
        'SELECT partition, "offset", at, id, type, workspace, subject, actor, version, refusal, value,'  # noqa: S608
        " CASE WHEN type = 'ravand.ModelRegistered' THEN tail END AS tail FROM log.journal"
        f' WHERE {" AND ".join(conditions)} ORDER BY "offset" LIMIT {_CHUNK}',
        arguments,
    )


def _of_row(row: Any) -> Entry:
    number = 0
    if row["tail"] is not None and (job := _tail.decode(b"{" + row["tail"][1:]).job) is not None and job.model:
        number = job.model.number
    return Entry(
        partition=row["partition"],
        offset=row["offset"],
        at=row["at"],
        id=row["id"],
        type=row["type"].removeprefix(PREFIX),
        workspace=row["workspace"],
        subject=row["subject"],
        actor=row["actor"],
        version=row["version"],
        refusal=row["refusal"],
        envelope=_decoded(row["value"]),
        value=row["value"],
        model_number=number,
    )


def _decoded(value: bytes | None) -> Envelope | None:
    try:
        return decode(value)
    except (UndecodableRecord, UnknownType):
        return None


async def from_log(settings: KafkaSettings, selection: Selection) -> AsyncGenerator[Entry, None]:
    """The same, read from Kafka alone: no database is asked, and every verdict is computed from the bytes.

    Times are the broker's present ones, which differ from the first where a log was completed from the journal.
    Raises `Unjudgeable`, `LogUnreadable` and `KafkaError`.
    """
    key = None if selection.workspace is None else selection.workspace.encode()
    ends = await bounds(settings)
    for partition in _partitions(selection):
        fold, last = Fold(), 0
        async with aclosing(LogReader(settings, partition).read(ends[partition][1])) as batches:
            async for batch in batches:
                for record in batch:
                    # What another workspace wrote changes no verdict in this one; rules change all of them.
                    if key is not None and record.key not in (key, b"system"):
                        continue
                    said = read(record.key, record.value, partition)
                    known = fold.workspaces.get(said.workspace)
                    before = known.jobs.get(said.subject) if known is not None else None
                    judged = fold.judge(record.timestamp, record.key, record.value, said)
                    if key is not None and record.key == key:
                        last = judged.version or last
                    entry = Entry(
                        partition=partition,
                        offset=record.offset,
                        at=record.timestamp,
                        id=said.id,
                        type=judged.kind.removeprefix(PREFIX),
                        workspace=said.workspace,
                        subject=said.subject,
                        actor=said.actor,
                        version=judged.version,
                        refusal=judged.refusal,
                        envelope=said if isinstance(said, Envelope) else _decoded(record.value),
                        value=record.value,
                        model_number=judged.effect.model.number if judged.effect and judged.effect.model else 0,
                        before=before,
                    )
                    if selection.matches(entry) and selection.within(entry, last):
                        yield entry
