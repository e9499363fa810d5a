"""The column that is learned: class indices, or standardised numbers, and the way back to the original values."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from recipes.series import category_texts, index_of, kind_of, number_parts
from recipes.task import MINIMUM_ROWS, class_problem, decide
from recipes.training import UnusableData

LabelType = Literal["integer", "number", "boolean", "text"]


class Labels(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="classification"):
    """The classes, in the order of the model's outputs."""

    name: str
    type: LabelType
    values: tuple[Any, ...]

    @property
    def outputs(self) -> int:
        """How many outputs the model has."""
        return len(self.values)


class Scale(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="regression"):
    """The numbers are `mean + scale × output`."""

    name: str
    type: Literal["integer", "number"]
    mean: float
    scale: float

    outputs = 1


Target = Labels | Scale


def fit_target(column: pl.Series, asked: Literal["auto", "classification", "regression"]) -> Target:
    """What the column asks for, from the rows in which it has a value."""
    kind = label_type(column)
    distinct = column.n_unique()
    if len(column) < MINIMUM_ROWS:
        raise UnusableData(f"Only {len(column)} rows have a value in {column.name!r}; {MINIMUM_ROWS} are needed.")
    if distinct < 2:
        raise UnusableData(f"{column.name!r} has the same value in every row: there is nothing to learn.")
    if decide(asked, kind, distinct, len(column)) == "classification":
        problem = class_problem(distinct, len(column))
        if problem:
            raise UnusableData(f"{column.name!r} {problem}")
        return Labels(name=column.name, type=kind, values=tuple(column.unique().sort().to_list()))
    if kind not in ("integer", "number"):
        raise UnusableData(f"{column.name!r} is {kind}: regression needs numbers.")
    numbers = number_parts(column, date=False)[:, 0]
    mean, scale = float(numbers.mean()), float(numbers.std())
    if not (math.isfinite(mean) and math.isfinite(scale) and scale > 0):
        raise UnusableData(f"The numbers in {column.name!r} are too large, or too close together, to learn.")
    return Scale(name=column.name, type="integer" if kind == "integer" else "number", mean=mean, scale=scale)


def usable(column: pl.Series) -> pl.Series:
    """Which rows have a value to learn: neither missing nor NaN nor infinite."""
    there = column.is_not_null()
    return there & column.is_finite().fill_null(False) if column.dtype.is_float() else there


def prepared(column: pl.Series) -> pl.Series:
    """The target as it is compared: texts without blanks around them."""
    return category_texts(column) if kind_of(column) == "text" else column


def encode_target(column: pl.Series, target: Target) -> npt.NDArray[Any]:
    """Class indices, or standardised numbers."""
    if isinstance(target, Labels):
        return index_of(target.values, column, unknown=-1, missing=-1, first=0)
    return ((number_parts(column, date=False)[:, 0] - target.mean) / target.scale).astype(np.float32)


def label_type(column: pl.Series) -> LabelType:
    """What kind of values the labels are, so that predictions are of the same kind."""
    kind = kind_of(column)
    if kind == "datetime":
        raise UnusableData(f"{column.name!r} is a date; a number or a text is needed.")
    if kind == "number":
        return "integer" if column.dtype.is_integer() else "number"
    return kind
