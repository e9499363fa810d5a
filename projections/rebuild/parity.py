"""Compares the live tables with new ones that stand at the same position: every row, every column, in PostgreSQL itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from projections.rebuild.runs import KEPT_DIFFERENCES, Difference, TableReport
from projections.tables import HOMES

_KEYS = {
    "requests": ("workspace", "id"),
    "epochs": ("workspace", "job_id", "attempt", "epoch"),
    "checkpoints": ("workspace", "job_id", "attempt", "epoch", "step"),
    "jobs": ("workspace", "job_id"),
    "workspaces": ("workspace", "partition"),
    "datasets": ("workspace", "dataset_id"),
    "models": ("workspace", "name", "number"),
}
_TOUCHED_BY = {
    "requests": "id",
    "epochs": "job_id",
    "checkpoints": "job_id",
    "jobs": "job_id",
    "workspaces": None,
    "datasets": "dataset_id",
    "models": "job_id",
}
"""The column by which a record names the rows that it may have changed; None where all are few enough."""
_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_PREFETCH = 500


@dataclass(frozen=True)
class Touched:
    """What some records may have changed: (workspace, subject or id)."""

    workspaces: Sequence[str]
    subjects: Sequence[str]


async def compare(
    connection: Any, name: str, schema: str, touched: Touched | None = None
) -> tuple[TableReport, list[Difference]]:
    """How the live table of that projection compares with the one in `schema`: the report, and the first differences.

    `connection` is in a transaction, in which both stand at the same position. Only the rows of `touched` where given.
    """
    report, found = TableReport(), list[Difference]()
    table = f"{schema}.{name}"
    if touched is None:
        report.rows = await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
    async for key, what, columns in _differing(connection, name, table, touched):
        match what:
            case "missing":
                report.missing += 1
            case "extra":
                report.extra += 1
            case _:
                report.altered += 1
                for column in columns:
                    report.columns[column] = report.columns.get(column, 0) + 1
        if len(found) < KEPT_DIFFERENCES:
            found.append(Difference(projection=name, what=what, key=key, columns=", ".join(columns)))
    return report, found


async def _differing(
    connection: Any, name: str, table: str, touched: Touched | None
) -> AsyncIterator[tuple[str, Any, list[str]]]:
    keys = _KEYS[name]
    columns = [row["attname"] for row in await connection.fetch(_COLUMNS, table)]
    values = [column for column in columns if column not in keys]
    joined = " AND ".join(f'l."{key}" = n."{key}"' for key in keys)
    differ = [f'l."{column}" IS DISTINCT FROM n."{column}"' for column in values]
    shown = " || ' ' || ".join(f'coalesce(l."{key}", n."{key}")::text' for key in keys)
    live, made, arguments = _sources(HOMES[name], table, _TOUCHED_BY[name], touched)
    query = (
        f'SELECT {shown} AS key, l."{keys[0]}" IS NULL AS missing, n."{keys[0]}" IS NULL AS extra,'  # noqa: S608
        f" ARRAY[{', '.join(differ)}]::boolean[] AS differ FROM {live} l FULL JOIN {made} n ON {joined}"
        f' WHERE l."{keys[0]}" IS NULL OR n."{keys[0]}" IS NULL OR {" OR ".join(differ)}'
    )
    async for row in connection.cursor(query, *arguments, prefetch=_PREFETCH):
        if row["missing"] or row["extra"]:
            yield row["key"], "missing" if row["missing"] else "extra", []
        else:
            yield row["key"], "altered", [c for c, differs in zip(values, row["differ"], strict=True) if differs]


def _sources(home: str, table: str, by: str | None, touched: Touched | None) -> tuple[str, str, tuple[Any, ...]]:
    if touched is None or by is None:
        return home, table, ()
    only = "unnest($1::text[], $2::text[]) AS k(w, s)"
    sources = [
        f'(SELECT t.* FROM {only} JOIN {one} t ON t.workspace = k.w AND t."{by}" = k.s)'  # noqa: S608
        for one in (home, table)
    ]
    return sources[0], sources[1], (list(touched.workspaces), list(touched.subjects))


async def touched_since(connection: Any, positions: Mapping[int, int]) -> Touched:
    """What the records after these positions may have changed."""
    rows = await connection.fetch(
        "SELECT DISTINCT j.workspace, s.subject FROM log.cursors c"
        " LEFT JOIN unnest($1::int[], $2::bigint[]) AS p(partition, position) ON p.partition = c.partition"
        ' JOIN log.journal j ON j.partition = c.partition AND j."offset" >= coalesce(p.position, 0)'
        " CROSS JOIN LATERAL (VALUES (j.subject), (j.id)) AS s(subject)",
        list(positions),
        list(positions.values()),
    )
    return Touched([row["workspace"] for row in rows], [row["subject"] for row in rows])


def together(before: TableReport, after: TableReport) -> TableReport:
    """The report of a table, and of what was changed in it since."""
    columns = dict(before.columns)
    for column, count in after.columns.items():
        columns[column] = columns.get(column, 0) + count
    return TableReport(
        rows=before.rows + after.rows,
        missing=before.missing + after.missing,
        extra=before.extra + after.extra,
        altered=before.altered + after.altered,
        columns=columns,
    )
