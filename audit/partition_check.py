"""Compares one partition: the log against the journal byte by byte, the hash chain against its seals, verdicts against the fold.

The log is read once, from offset 0. Beside it the journal and the requests are streamed in the same order, and every row is
compared with the bytes that it must have. What the fold says of the read model is kept for `audit.rows_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from itertools import chain
from struct import Struct
from typing import Any

from audit.copied import NULL, Copied, Field, copied, field, first_difference, text
from audit.expected import Expected
from audit.findings import Break, PartitionReport
from audit.fold import Fold, Judged, Unjudgeable, tail_of, unusual_headers
from audit.log_reader import LogReader, LogUnreadable
from audit.seals import Head
from projections.batch import JOURNAL
from projections.chain import link
from projections.reading import Refused, read_many
from schemas.envelope import TYPE_COPIES

_JOURNAL_QUERY = (
    'SELECT partition, "offset", at, id, type, workspace, subject, actor, version, refusal, key, value, headers, tail, hash'
    ' FROM log.journal WHERE partition = $1 AND "offset" < $2 ORDER BY "offset"'
)
_REQUEST = ("workspace", "id", "partition", "offset", "type", "subject", "version", "refusal", "requesthash")
_REQUEST_QUERY = (
    'SELECT workspace, id, partition, "offset", type, subject, version, refusal, requesthash'
    ' FROM log.requests WHERE partition = $1 ORDER BY "offset"'
)
_head = Struct(">hiiiqiq")
_HEAD_BYTES = _head.size
_COLUMNS_BEFORE_AT = Struct(">hiiiqi").size
_read_at = Struct(">q").unpack_from
_number = Struct(">iq").pack
_place = Struct(">iiiq").pack
_length = Struct(">i").pack
_head_and_id = Struct(">hiiiqiqi").pack
_version_and_none = Struct(">iqi").pack
_none_and_length = Struct(">ii").pack
_HASH_LENGTH = _length(32)
_KNOWN_TEXTS = 50_000
_SLICE = 100
"""Records that are decoded at once."""
AT, KEY, VALUE, HASH = (JOURNAL.index(name) for name in ("at", "key", "value", "hash"))


class _Found(Exception):
    """A break: nothing more of this partition can be trusted to be comparable."""

    def __init__(self, found: Break) -> None:
        self.found = found


class PartitionCheck:
    """One partition, up to the cursor of the database's snapshot that `connections` share."""

    def __init__(
        self,
        reader: LogReader,
        cursor: Mapping[str, Any],
        expected: Expected,
        *,
        anchors: Mapping[int, Head],
        seals: Mapping[int, Head],
        told: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.partition: int = cursor["partition"]
        self.report = PartitionReport(partition=self.partition)
        self.fold = Fold()
        self._reader = reader
        self._cursor = cursor
        self._expected = expected
        self._anchors = anchors
        self._seals = seals
        self._told = told
        self._texts: dict[str, bytes] = {}
        self._before = self.fold.chain
        """The head of the chain before the record in hand: found right."""

    async def run(self, journal: Any, requests: Any) -> None:
        """Compare; `journal` and `requests` are connections in one snapshot. What is found is in `report`."""
        end = self._cursor["next_offset"]
        try:
            self._bounds(end)
            async with (
                copied(journal, _JOURNAL_QUERY, self.partition, end) as rows,
                copied(requests, _REQUEST_QUERY, self.partition) as asked,
            ):
                await self._compare(rows, asked, end)
        except _Found as stopped:
            self.report.breaks.append(stopped.found)

    def _stop(self, what: str, detail: str, offset: int | None = None, **place: Any) -> _Found:
        return _Found(Break(what=what, detail=detail, partition=self.partition, offset=offset, **place))

    def _bounds(self, end: int) -> None:
        if end == 0:
            return
        first, last = self._cursor["log_first"], self._cursor["log_end"]
        if first > 0:
            raise self._stop("log_begins_late", f"the records before offset {first} are gone from the log", 0)
        if last < end:
            raise self._stop(
                "log_is_shorter",
                f"the log ends at offset {last}, and the journal goes up to {end}: the broker lost its tail, and no"
                " projector has completed it from the journal yet",
                last,
            )

    async def _compare(self, rows: Copied, asked: Copied, end: int) -> None:
        report, position = self.report, 0
        self._check_heads(0)
        try:
            async with aclosing(self._reader.read(end)) as batches:
                async for batch in batches:
                    await self._records(batch, rows, asked)
                    position = batch[-1].offset + 1
                    report.records += len(batch)
                    self._told(len(batch))
        except LogUnreadable as error:
            raise await self._unreadable(error, rows, position) from None
        if position < end and end > 0:
            raise self._stop("log_is_shorter", f"no record between offset {position} and {end} could be read", position)
        if (extra := await rows.row()) is not None:
            offset = int.from_bytes(extra[1] or b"", "big")
            raise self._stop(
                "journal_extra_row", "the journal has a row that the log has no record for", offset, table="log.journal"
            )
        if (late := await asked.row()) is not None:
            raise self._request_break(late, None)
        self._cursor_row(end)

    async def _records(self, batch: list[Any], rows: Copied, asked: Copied) -> None:
        """The hot path: one loop, since at a hundred thousand records a second every call is felt."""
        fold, report, expected = self.fold, self.report, self._expected
        anchors, seals = self._anchors, self._seals
        readings = chain.from_iterable(
            read_many(batch[first : first + _SLICE], self.partition) for first in range(0, len(batch), _SLICE)
        )
        for record, said in zip(batch, readings, strict=True):
            if len(rows.buffer) - rows.place < _HEAD_BYTES and not await rows.need(_HEAD_BYTES):
                detail = "the journal ends before the log does"
                raise self._stop("journal_lacks_row", detail, record.offset, table="log.journal")
            offset, at, value = record.offset, record.timestamp, record.value
            self._before = fold.chain
            stored_at = _read_at(rows.buffer, rows.place + _COLUMNS_BEFORE_AT)[0]
            if stored_at != at:
                at = await self._time_of(record, stored_at, rows)
            try:
                judged = fold.judge(at, record.key, value, said)
            except Unjudgeable as error:
                raise self._stop("verdict_impossible", f"this build cannot judge the record: {error}", offset) from None
            effect = judged.effect
            tail = None if effect is None else tail_of(effect, at)
            row = self._plain_row(offset, at, judged, record, tail) if tail is not None else None
            if row is None:
                row = self._row(offset, at, judged, record, tail)
            size = len(row)
            if len(rows.buffer) - rows.place < size:
                await rows.need(size)
            if not rows.buffer.startswith(row, rows.place):
                raise await self._journal_break(record, at, judged, tail, rows)
            rows.place += size
            report.bytes += len(value or b"")
            if judged.first:
                await self._request(judged, offset, asked)
            if effect is None:
                report.refused += 1
            else:
                report.effective += 1
                expected.take(judged, at, offset)
            if (anchors and offset + 1 in anchors) or (seals and offset + 1 in seals):
                self._check_heads(offset + 1)

    def _plain_row(self, offset: int, at: int, judged: Judged, record: Any, tail: bytes) -> bytes | None:
        """The journal's row of an effective record whose headers are the usual ones; None where they are not."""
        said, known = judged.said, self._texts
        assert type(said) is not Refused
        id, copies = said.id.encode(), record.headers
        if len(copies) != 2 or copies[1] != ("ce_id", id) or copies[0] != TYPE_COPIES[type(said.data)]:
            return None
        try:
            kind, workspace = known[judged.kind], known[said.workspace]
            subject, actor = known[said.subject], known[said.actor]
        except KeyError:
            return None  # The general way is taken once, and knows them from then on.
        return b"".join(
            (
                _head_and_id(15, 4, self.partition, 8, offset, 8, at, len(id)),
                id,
                kind,
                workspace,
                subject,
                actor,
                _version_and_none(8, judged.version, -1),
                workspace,  # The key: a record whose key is another does not take effect.
                _length(len(record.value)),
                record.value,
                _none_and_length(-1, len(tail)),
                tail,
                _HASH_LENGTH,
                self.fold.chain,
            )
        )

    def _row(self, offset: int, at: int, judged: Judged, record: Any, tail: bytes | None) -> bytes:
        said, known = judged.said, self._text
        unusual = unusual_headers(record.headers, said)
        return b"".join(
            (
                _head.pack(15, 4, self.partition, 8, offset, 8, at),
                text(said.id),
                known(judged.kind),
                known(said.workspace),
                known(said.subject),
                known(said.actor),
                NULL if judged.version is None else _number(8, judged.version),
                NULL if judged.refusal is None else known(judged.refusal),
                field(record.key),
                field(record.value),
                NULL if unusual is None else field(unusual),
                field(tail),
                field(self.fold.chain),
            )
        )

    def _text(self, value: str) -> bytes:
        known = self._texts.get(value)
        if known is None:
            if len(self._texts) > _KNOWN_TEXTS:
                self._texts.clear()
            known = self._texts[value] = text(value)
        return known

    async def _time_of(self, record: Any, stored: int, rows: Copied) -> int:
        """The time that was judged, where the log's and the journal's differ.

        A log that lost its tail is completed from the journal, and the broker stamps those records anew. Then the
        journal's time is the older one, and the one in the hash chain. Anything else was altered, and shows below.
        """
        if stored < record.timestamp:
            row = await rows.row()
            if row is not None and row[HASH] == link(self.fold.chain, stored, record.key, record.value):
                self.report.restored += 1
                return stored
        return int(record.timestamp)

    # --- breaks -------------------------------------------------------------------------------------------------------

    async def _journal_break(self, record: Any, at: int, judged: Judged, tail: bytes | None, rows: Copied) -> _Found:
        offset, row = record.offset, await rows.row()
        if row is None:
            return self._stop("journal_lacks_row", "the journal ends before the log does", offset, table="log.journal")
        stored_offset = int.from_bytes(row[1] or b"", "big")
        if stored_offset != offset:
            if stored_offset > offset:
                return self._stop(
                    "journal_lacks_row", "the journal has no row for this record", offset, table="log.journal"
                )
            return self._stop(
                "journal_extra_row", "the log has no record for this row", stored_offset, table="log.journal"
            )
        expected = self._fields(self._row(offset, at, judged, record, tail))
        column = first_difference(JOURNAL, row, expected)
        if (row[KEY], row[VALUE], row[AT]) != (expected[KEY], expected[VALUE], expected[AT]) or column == "hash":
            return self._bytes_break(record, row, expected)
        return self._stop(
            "verdict_differs" if column in ("version", "refusal") else "journal_altered",
            f"the journal says {_shown(row, column)}, and the fold of the log says {_shown(expected, column)}",
            offset,
            table="log.journal",
            column=column,
        )

    def _bytes_break(self, record: Any, row: list[Field], expected: list[Field]) -> _Found:
        """Who was altered: the chain tells, since its head before this record was found right."""
        before = self._before
        stored_at = int.from_bytes(row[AT] or b"", "big", signed=True)
        place = {"offset": record.offset, "table": "log.journal"}
        columns = [name for i, name in enumerate(JOURNAL) if i in (AT, KEY, VALUE) and row[i] != expected[i]]
        if row[HASH] == link(before, stored_at, row[KEY], row[VALUE]):
            return self._stop(
                "log_altered",
                f"the log's record differs from the journal's in its {' and '.join(columns)}, and the journal's fits the"
                " hash chain",
                record.offset,
                column=columns[0] if columns else None,
            )
        if row[HASH] == expected[HASH]:
            return self._stop(
                "journal_altered",
                f"the journal's {' and '.join(columns)} differs from the log's, which fits the hash chain",
                **place,
                column=columns[0] if columns else None,
            )
        if not columns:
            return self._stop(
                "chain_altered",
                "the stored hash is not that of the record, whose bytes are the same in the log and the journal: the"
                " hash, or both copies, were altered",
                **place,
                column="hash",
            )
        return self._stop(
            "chain_broken",
            f"log and journal differ in {' and '.join(columns)}, and neither fits the stored hash",
            **place,
            column=columns[0],
        )

    def _fields(self, row: bytes) -> list[Field]:
        fields: list[Field] = []
        place = 2
        while place < len(row):
            length = int.from_bytes(row[place : place + 4], "big", signed=True)
            place += 4
            fields.append(None if length < 0 else row[place : place + length])
            place += max(0, length)
        return fields

    async def _unreadable(self, error: LogUnreadable, rows: Copied, done: int) -> _Found:
        offset, detail = error.offset, str(error)
        if error.checksum:
            for record in await self._reader.unchecked(offset):
                if record.offset < offset:
                    continue
                while (row := await rows.row()) is not None and int.from_bytes(row[1] or b"", "big") < record.offset:
                    await rows.skip()
                if row is not None and (row[KEY], row[VALUE]) != (record.key, record.value):
                    which = "key" if row[KEY] != record.key else "value"
                    detail = f"the record's {which} differs from the journal's, and its batch's checksum does not fit"
                    return self._stop("log_altered", detail, record.offset, column=which)
            detail += (
                f"; the batch begins at offset {offset}, and its records' keys and values are those of the journal"
            )
        return self._stop("log_unreadable" if not error.checksum else "log_altered", detail, offset)

    # --- requests, heads, cursor --------------------------------------------------------------------------------------

    async def _request(self, judged: Judged, offset: int, asked: Copied) -> None:
        said, known = judged.said, self._text
        hashed = getattr(said, "requesthash", None)
        id = text(said.id)
        row = b"".join(
            (
                b"\x00\x09",
                known(said.workspace),
                id,
                _place(4, self.partition, 8, offset),
                known(judged.kind),
                id if said.subject == said.id else text(said.subject),
                NULL if judged.version is None else _number(8, judged.version),
                NULL if judged.refusal is None else known(judged.refusal),
                text(hashed),
            )
        )
        if not (await asked.need(len(row)) and asked.buffer.startswith(row, asked.place)):
            raise self._request_break(await asked.row(), self._fields(row), offset)
        asked.place += len(row)
        self.report.rows += 1

    def _request_break(
        self, row: list[Field] | None, expected: list[Field] | None, offset: int | None = None
    ) -> _Found:
        stored = None if row is None else int.from_bytes(row[3] or b"", "big")
        shown = (expected or row or [b"", b""])[:2]
        name = " ".join((part or b"").decode(errors="replace") for part in shown)
        if expected is None or (stored is not None and offset is not None and stored < offset):
            name = " ".join((part or b"").decode(errors="replace") for part in (row or [])[:2])
            return self._stop(
                "request_extra", "no first request of the log is at that offset", stored, table="log.requests", row=name
            )
        if row is None or stored != offset:
            return self._stop(
                "request_missing", "the request's verdict is not kept", offset, table="log.requests", row=name
            )
        column = first_difference(_REQUEST, row, expected)
        return self._stop(
            "request_altered",
            f"the row says {_shown(row, column, _REQUEST)}, and the log says {_shown(expected, column, _REQUEST)}",
            offset,
            table="log.requests",
            row=name,
            column=column,
        )

    def _check_heads(self, offset: int) -> None:
        for kind, heads in (("anchor", self._anchors), ("seal", self._seals)):
            head = heads.get(offset)
            if head is None:
                continue
            if head.chain != self.fold.chain:
                source = "the anchor file" if kind == "anchor" else "a signed seal"
                raise self._stop(
                    f"{kind}_differs",
                    f"the hash of everything before offset {offset} is not the one in {source}: log and journal were"
                    " rewritten alike",
                    offset,
                )
            if kind == "anchor":
                self.report.anchors += 1
            else:
                self.report.seals += 1

    def _cursor_row(self, end: int) -> None:
        cursor = self._cursor
        row = str(self.partition)
        for column, expected in (("chain", self.fold.chain), ("rules", self.fold.rules)):
            if cursor[column] != expected:
                raise self._stop(
                    "cursor_altered", f"its {column} is not what the log comes to", end, table="log.cursors", row=row,
                    column=column,
                )  # fmt: skip
        if not 0 <= cursor["published"] <= end:
            raise self._stop(
                "cursor_altered", "it says that more is published than was judged", end, table="log.cursors", row=row,
                column="published",
            )  # fmt: skip


_NUMBERS = frozenset({"partition", "offset", "at", "version"})
_BYTES = frozenset({"key", "value", "headers", "tail", "hash"})


def _shown(row: list[Field], column: str | None, columns: tuple[str, ...] = JOURNAL) -> str:
    if column is None:
        return "another row"
    value = row[columns.index(column)]
    if value is None:
        return "nothing"
    if column in _NUMBERS:
        return str(int.from_bytes(value, "big", signed=True))
    if column in _BYTES:
        return f"{len(value)} bytes"
    return repr(value.decode(errors="replace"))
