"""Whether a column is something to tell apart or something to measure; the same rule for the check and the training."""

from __future__ import annotations

from typing import Literal

from schemas.dataset_profile import ColumnType

Task = Literal["classification", "regression"]

MINIMUM_ROWS = 4
MAXIMUM_CLASSES = 10_000
FEW = 20
"""An integer with at most so many different values, each in five rows on average, is a label rather than a measure."""


def decide(asked: Literal["auto", "classification", "regression"], kind: ColumnType, distinct: int, rows: int) -> Task:
    """What was asked for; else classification for text, booleans and integers of few values, regression for numbers."""
    if asked != "auto":
        return asked
    if kind == "integer":
        return "classification" if distinct <= max(2, min(FEW, rows // 5)) else "regression"
    if kind == "number":
        return "classification" if distinct <= 2 else "regression"
    return "classification"


def class_problem(classes: int, rows: int) -> str | None:
    """Why that many classes cannot be learned from that many rows, as the end of a sentence; None if they can."""
    if classes < 2:
        return "has only one class: there is nothing to tell apart."
    if classes > MAXIMUM_CLASSES:
        return f"has {classes} different values; at most {MAXIMUM_CLASSES} classes can be told apart."
    if classes > max(2, rows // 2) and classes > FEW:
        return f"has {classes} different values in {rows} rows: almost none occurs twice."
    return None
