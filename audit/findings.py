"""What a verification found: the breaks, each with its place, and what was looked at."""

from __future__ import annotations

import msgspec


class Break(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is not as the log says. `what` is stable: programs tell breaks apart by it."""

    what: str
    detail: str
    partition: int | None = None
    offset: int | None = None
    """Of the record at which, or up to which, the log and the rest part."""
    table: str | None = None
    row: str | None = None
    column: str | None = None

    def place(self) -> str:
        """Where it is, in words."""
        parts = []
        if self.table:
            parts.append(self.table)
        if self.row:
            parts.append(f"row {self.row}")
        if self.column:
            parts.append(f"column {self.column}")
        if self.partition is not None:
            parts.append(f"partition {self.partition}")
        if self.offset is not None:
            parts.append(f"offset {self.offset}")
        return ", ".join(parts) or "the installation"


class PartitionReport(msgspec.Struct, kw_only=True):
    """What became of one partition."""

    partition: int
    records: int = 0
    bytes: int = 0
    effective: int = 0
    refused: int = 0
    restored: int = 0
    """Records that the log got back from the journal after it had lost them: their times are the journal's."""
    seals: int = 0
    """Signed heads of the chain that were found right."""
    anchors: int = 0
    """Heads of the given anchor file that were found right."""
    rows: int = 0
    """Rows of the read model that were compared, the journal's not counted."""
    breaks: list[Break] = []
    cpu_seconds: float = 0.0
    pid: int = 0


class Report(msgspec.Struct, kw_only=True):
    """The whole. `breaks` are in order: the first is the one that others may follow from."""

    ok: bool
    log_id: str
    records: int
    bytes: int
    effective: int
    refused: int
    restored: int
    unjudged: int
    """Records on the log that the projector has not come to; read and hashed by nobody yet."""
    rows: int
    seals: int
    anchors: int
    seconds: float
    cpu_seconds: float
    breaks: list[Break]
    notes: list[str]
    """What could not be checked, and why."""


_ORDER = ("log", "chain", "anchor", "seal", "journal", "verdict", "cursor", "request", "row")


def in_order(breaks: list[Break]) -> list[Break]:
    """The one that the others may follow from comes first: the log before what is folded from it, then by place."""

    def rank(found: Break) -> tuple[int, int, str, int, str]:
        kind = found.what.split("_")[0]
        known = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
        # Of rows, the journal's side is before the read model that is folded from it: "log.…" before "read.…".
        if found.offset is None:
            return 1, known, found.table or "", found.partition or 0, found.what
        return 0, found.offset, "", found.partition or 0, found.what

    return sorted(breaks, key=rank)
