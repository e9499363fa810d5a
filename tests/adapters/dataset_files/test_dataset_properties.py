"""Random tables: written by others, read by us, counted by hand."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapters.dataset_files import csv_records, profile, read_arrays, read_table
from adapters.dataset_files.column_types import MISSING

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
# A letter in front keeps a text from looking like a number, or like nothing.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(
    lambda text: "م" + text
)
KINDS = st.sampled_from([(INTEGERS, pl.Int64()), (NUMBERS, pl.Float64()), (TIMES, pl.Datetime("us")),
                         (TEXTS, pl.String()), (st.booleans(), pl.Boolean())])  # fmt: skip
NAMES = st.lists(
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=8).filter(lambda name: name == name.strip()),
    min_size=1, max_size=4, unique=True,
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """A table whose columns all have a value, and whose rows are never blank lines."""
    rows = draw(st.integers(1, 12))
    columns = []
    for name in draw(NAMES):
        values, dtype = draw(KINDS)
        column = draw(st.lists(st.none() | values, min_size=rows - 1, max_size=rows - 1))
        columns.append(pl.Series(name, [draw(values), *column], dtype=dtype))
    return pl.DataFrame(columns)


def check(path: Path, format: str, table: pl.DataFrame) -> None:
    """The file reads as the table, and its profile is what counting by hand gives."""
    got = read_table(path, format)
    assert got.columns == table.columns
    result = profile(path, path.name)
    assert (result.format, result.rows) == (format, table.height)
    for column in result.columns:
        expected = table[column.name]
        # A column of numbers that are all whole has been written without a sign of that by some writers.
        assert got[column.name].cast(expected.dtype).to_list() == expected.to_list()
        present = [value for value in expected.to_list() if value is not None]
        assert column.missing == table.height - len(present)
        assert column.distinct == len(set(present))
        if column.type == "text":
            counts = Counter(present)
            assert column.values == tuple(sorted(counts, key=lambda value: (-counts[value], value.encode())))
        if column.type in ("integer", "number"):
            assert (column.minimum, column.maximum) == (float(min(present)), float(max(present)))


@settings(max_examples=60)
@given(tables(), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), st.sampled_from([24, 10_000]))
def test_a_csv_file_reads_as_it_was_written(table: pl.DataFrame, delimiter: str, end: str, block: int) -> None:
    rows = [["" if value is None else _text(value) for value in row] for row in table.rows()]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([table.columns, *rows])
    previous = csv_records.BLOCK, csv_records._BLOCK_PER_COLUMN
    csv_records.BLOCK, csv_records._BLOCK_PER_COLUMN = block, 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.csv"
            path.write_bytes(out.getvalue().encode())
            check(path, "csv", table)
    finally:
        csv_records.BLOCK, csv_records._BLOCK_PER_COLUMN = previous


@settings(max_examples=30)
@given(tables())
def test_a_parquet_file_reads_as_it_was_written(table: pl.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        table.write_parquet(path)
        check(path, "parquet", table)


@settings(max_examples=60)
@given(st.lists(st.text('a",\n\r;|\t "1', min_size=0, max_size=8), min_size=1, max_size=6))
def test_bytes_that_nobody_meant_are_refused_or_read_as_the_standard_library_does(lines: list[str]) -> None:
    from adapters.dataset_files import UnreadableDataset

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes("\n".join(["a,b", *lines]).encode())
        try:
            got = read_table(path, "csv")
        except UnreadableDataset:
            return
        if got.columns != ["a", "b"]:
            return  # Another delimiter explains the rows better.
        rows = list(csv.reader(io.StringIO("\n".join(["a,b", *lines]), newline=""), strict=True))[1:]
        expected = [tuple(None if cell.strip() in MISSING else cell for cell in row) for row in rows if row]
        assert [tuple(map(_bare, row)) for row in got.rows()] == [tuple(map(_bare, row)) for row in expected]


@settings(max_examples=30)
@given(st.integers(1, 6).flatmap(lambda rows: hnp.arrays(
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(), st.tuples(st.just(rows), st.integers(1, 4))
)))  # fmt: skip
def test_an_array_reads_as_it_was_written(array: np.ndarray[tuple[int, int], np.dtype[np.generic]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        np.savez(path, a=array)
        assert np.array_equal(read_arrays(path)["a"], array, equal_nan=array.dtype.kind == "f")
        assert profile(path, "x.npz").rows == len(array)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _bare(cell: object) -> str | None:
    """A cell without what types take away: whitespace around, and the sign of a whole number."""
    return None if cell is None else str(cell).strip()
