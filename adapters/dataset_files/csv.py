"""Reads a CSV file into a table with types; in blocks, so that memory holds the table and little else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import polars as pl

from adapters.dataset_files.column_types import DTYPES, narrow, values
from adapters.dataset_files.csv_dialect import Dialect, dialect_of
from adapters.dataset_files.csv_records import Block, Irregular, blocks
from adapters.dataset_files.csv_rewrite import rewrite
from adapters.dataset_files.csv_text import utf8_file
from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, MIB, Limits
from schemas.dataset_profile import ColumnType


def read(path: Path, limits: Limits = DEFAULT_LIMITS, *, compact: bool = False) -> pl.DataFrame:
    """The whole table, its types decided by all rows.

    `compact` keeps integers in as few bytes as they need and bounds the table's size: for who only looks at it.
    """
    with utf8_file(path, limits) as file:
        return table_of(file, limits, compact=compact)


def table_of(file: IO[bytes], limits: Limits, *, compact: bool) -> pl.DataFrame:
    """As `read`, from valid UTF-8 that begins where the file stands."""
    dialect = dialect_of(file, limits)
    start = file.tell()
    try:
        return _table(file, dialect, limits, compact)
    except Irregular:
        file.seek(start)
        with tempfile.TemporaryFile() as regular:
            rewrite(file, regular, dialect.delimiter, len(dialect.names), limits)
            return _table(regular, dialect, limits, compact)


def _table(file: IO[bytes], dialect: Dialect, limits: Limits, compact: bool) -> pl.DataFrame:
    start = file.tell()
    # Names of our own while reading: people's may be anything.
    kinds: dict[str, ColumnType] = {str(number): "integer" for number in range(len(dialect.names))}
    while (table := _attempt(file, dialect, kinds, limits, compact)) is None:
        file.seek(start)
    if table.is_empty():
        raise UnreadableDataset("no_rows", "The file has a header and no rows.")
    empty = [name for name in table.columns if table[name].null_count() == table.height]
    table = table.with_columns(pl.col(empty).cast(pl.String))
    table.columns = list(dialect.names)
    return table


def _attempt(
    file: IO[bytes], dialect: Dialect, kinds: dict[str, ColumnType], limits: Limits, compact: bool
) -> pl.DataFrame | None:
    """Read the table with the types in `kinds`, and correct those; None if a corrected one concerns earlier rows."""
    tables = [pl.DataFrame(schema={name: DTYPES[kind] for name, kind in kinds.items()}).clear()]
    settled, size = True, 0
    for number, block in enumerate(blocks(file, dialect.delimiter, len(dialect.names), limits)):
        raw = _fields(block, dialect, list(kinds))
        table, changed = _typed(raw, kinds)
        if changed and number > 0:
            settled = False
            tables.clear()
        if not settled:
            continue  # The other rows may have more to say about types.
        if compact:
            table = table.with_columns(table[name].shrink_dtype() for name in kinds if kinds[name] == "integer")
        tables.append(table)
        size += _size(table)
        if compact and size > limits.table_bytes:
            raise DatasetTooLarge(f"The table takes more than {limits.table_bytes // MIB} MiB in memory.")
    if not settled:
        return None
    return pl.concat(tables[1:] or tables, how="vertical_relaxed", rechunk=False)


def _fields(block: Block, dialect: Dialect, names: list[str]) -> pl.DataFrame:
    raw = pl.read_csv(
        bytes(block.data),
        has_header=False,
        separator=dialect.delimiter,
        schema=dict.fromkeys(names, pl.String()),
        empty_string_is_null=False,
    )
    if raw.height != block.rows:  # Two readers that disagree: better no dataset than a wrong one.
        raise UnreadableDataset("unreadable", "The rows of the file cannot be told apart.")
    return raw


def _typed(raw: pl.DataFrame, kinds: dict[str, ColumnType]) -> tuple[pl.DataFrame, bool]:
    """The values under `kinds`, which are corrected where they do not fit; and whether any was."""
    table = raw.select(values(name, kind) for name, kind in kinds.items())
    corrected = []
    for name, kind in kinds.items():
        if kind == "text" or table[name].null_count() == 0:
            continue

        def under(candidate: ColumnType, name: str = name, kind: ColumnType = kind) -> pl.Series:
            return (
                table[name] if candidate == kind else raw[name].to_frame().select(values(name, candidate)).to_series()
            )

        kinds[name] = narrow(kind, raw[name], under)
        if kinds[name] != kind:
            corrected.append(under(kinds[name]))
    return table.with_columns(corrected), bool(corrected)


def _size(table: pl.DataFrame) -> int:
    """What the table takes: polars estimates the bytes of texts, and leaves out the 16 with which it points at each."""
    texts = sum(dtype == pl.String for dtype in table.dtypes)
    return int(table.estimated_size()) + 16 * texts * table.height
