"""What type a column of text has, and its values: one set of rules for the profile and for training.

A column is an integer, number, boolean or datetime column if every value that is not missing is one; otherwise text.
`007` is text: leading zeros mean a code, not a number.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from schemas.dataset_profile import ColumnType

MISSING = (
    "", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL", "null", "Null", "None", "none",
)  # fmt: skip
"""What counts as no value, in any column, with or without quotes and spaces around it."""

CANDIDATES: tuple[ColumnType, ...] = ("integer", "number", "boolean", "datetime", "text")
"""In the order in which they are tried; text always fits."""

DTYPES: dict[ColumnType, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "datetime": pl.Datetime("us"),
    "text": pl.String(),
}

_LEADING_ZERO = r"^[+-]?0[0-9]"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_DATETIME_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M%#z",
)


def values(name: str, kind: ColumnType) -> pl.Expr:
    """The values of a text column under a type; null where one is missing, not finite, or does not fit."""
    raw = pl.col(name)
    text = raw.str.strip_chars()
    match kind:
        case "integer":
            return pl.when(~text.str.contains(_LEADING_ZERO)).then(text.cast(pl.Int64, strict=False)).alias(name)
        case "number":
            number = text.cast(pl.Float64, strict=False)
            return pl.when(~text.str.contains(_LEADING_ZERO) & number.is_finite()).then(number).alias(name)
        case "boolean":
            lower = text.str.to_lowercase()
            return pl.when(lower.is_in(["true", "false"])).then(lower == "true").alias(name)
        case "datetime":
            return text.map_batches(_datetimes, return_dtype=pl.Datetime("us")).alias(name)
        case _:
            return pl.when(~text.is_in(MISSING)).then(raw).alias(name)


def narrow(kind: ColumnType, raw: pl.Series, converted: Callable[[ColumnType], pl.Series]) -> ColumnType:
    """The first type from `kind` on that all values of `raw` have. `converted` gives `raw` under a type."""
    for candidate in CANDIDATES[CANDIDATES.index(kind) :]:
        if candidate == "text" or _fits(candidate, raw.filter(converted(candidate).is_null())):
            return candidate
    raise AssertionError("text fits everything")


def _fits(kind: ColumnType, unconverted: pl.Series) -> bool:
    """Whether what did not become a value of that type is only what counts as missing."""
    rest = unconverted.unique().str.strip_chars()
    rest = rest.filter(~rest.is_in(MISSING))
    if kind == "number":  # Infinite numbers are numbers, and missing.
        rest = rest.filter(rest.cast(pl.Float64, strict=False).is_null() | rest.str.contains(_LEADING_ZERO))
    return rest.is_empty()


def _datetimes(text: pl.Series) -> pl.Series:
    """ISO 8601 dates and times; those with an offset become UTC. A format is tried on what the ones before left."""
    rest = text.str.replace(" ", "T", literal=True)
    rest = rest.set(~rest.str.contains(_DATE), None)
    result = pl.Series(text.name, [None], dtype=pl.Datetime("us")).new_from_index(0, len(text))
    for format in _DATETIME_FORMATS:
        if rest.null_count() == len(rest):
            break
        found = rest.str.to_datetime(format, time_unit="us", strict=False).dt.replace_time_zone(None)
        result = result.zip_with(found.is_null(), found)
        rest = rest.set(found.is_not_null(), None)
    return result
