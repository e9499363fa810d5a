"""What the predictors of all recipes share: the shape of an answer, and what can be wrong with a question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import polars as pl
from torch import Tensor

from recipes.target import Labels, Target

DTYPES = {"integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(), "text": pl.String()}


class MissingColumns(Exception):
    """The data lack what the model learned from."""

    def __init__(self, names: list[str]) -> None:
        """`names`: all that is lacking."""
        self.names = names
        super().__init__(f"The model needs what is not there: {', '.join(map(repr, names))}.")


class Predictor(Protocol):
    """A model that answers."""

    def predict_file(self, data: Path) -> Iterator[pl.DataFrame]:
        """Answers for a file's rows or images, in order, some at a time: `prediction`, and for labels `confidence`."""


def answers(target: Target, output: Tensor) -> pl.DataFrame:
    """What a network's output means: labels in their own type with the probability of each, or numbers."""
    if not isinstance(target, Labels):
        numbers = output.squeeze(1).double() * target.scale + target.mean
        return pl.DataFrame({"prediction": numbers.numpy()})
    confidence, best = output.double().softmax(1).max(1)
    predicted = [target.values[index] for index in best.tolist()]
    return pl.DataFrame(
        {
            "prediction": pl.Series(predicted, dtype=DTYPES[target.type], strict=False),
            "confidence": confidence.numpy(),
        }
    )
