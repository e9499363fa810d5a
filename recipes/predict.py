"""Predicts with a downloaded model, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from recipes.prediction import Predictor


def load(model_path: Path) -> Predictor:
    """The predictor of a downloaded model: a ZIP archive, or a folder, with `model.safetensors` and `manifest.json`."""
    from recipes import catalog
    from recipes.model_file import read_model

    model = read_model(model_path)
    recipe = model.manifest.get("recipe", {})
    spec = catalog.recipe(str(recipe.get("name")), recipe.get("version"))
    predictor: Predictor = catalog.function(spec.predict)(model)
    return predictor


def predict(model_path: Path, data: Path) -> pl.DataFrame:
    """A row for each row of the data: `prediction`, in the type of the column that was learned, and for labels
    `confidence`, from 0 to 1."""
    import polars as pl

    return pl.concat(predictions(model_path, data))


def predictions(model_path: Path, data: Path) -> Iterator[pl.DataFrame]:
    """The same, some rows at a time."""
    yield from load(model_path).predict_file(data)
