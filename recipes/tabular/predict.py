"""Predicts with a model of the recipe `tabular`, from its files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import torch
from safetensors.torch import load as load_weights

from recipes.model_file import ModelFile, UnreadableModel
from recipes.prediction import MissingColumns, answers
from recipes.tabular.encoding import Column, TableEncoding
from recipes.tabular.network import TableNetwork
from recipes.tabular.spec import TabularParameters
from recipes.target import Target

ROWS = 8192
"""Rows at a time, so that memory does not grow with the table."""


class TabularPredictor:
    """Answers for rows of a table. The target's column is not needed, and columns that it does not know are no harm."""

    def __init__(self, model: ModelFile) -> None:
        """Rebuild the network from the manifest, and fill in the weights."""
        try:
            described = model.manifest["model"]
            self.encoding = TableEncoding(msgspec.convert(described["columns"], tuple[Column, ...]))
            self.target: Target = msgspec.convert(described["target"], Target)
            parameters = TabularParameters.model_validate(model.manifest["parameters"])
            self.network = TableNetwork.of(self.encoding, self.target, parameters)
            self.network.load_state_dict(load_weights(model.weights))
        except (KeyError, ValueError, RuntimeError) as error:
            raise UnreadableModel(f"The model's files do not fit together: {error}") from error
        self.network.eval()

    @property
    def columns(self) -> list[str]:
        """The columns that it needs."""
        return [column.name for column in self.encoding.columns]

    def predict_file(self, data: Path) -> Iterator[pl.DataFrame]:
        """Answers for the rows of a CSV or Parquet file, in order, some at a time."""
        from adapters.dataset_files import read_table

        yield from self.predict(read_table(data, "parquet" if data.suffix == ".parquet" else "csv"))

    def predict(self, table: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Answers for the rows of a table, in order, some at a time."""
        missing = [name for name in self.columns if name not in table.columns]
        if missing:
            raise MissingColumns(missing)
        for rows in table.iter_slices(ROWS):
            numbers, categories = self.encoding.encode(rows)
            with torch.inference_mode():
                output = self.network(torch.from_numpy(numbers), torch.from_numpy(categories))
            yield answers(self.target, output)


def load(model: ModelFile) -> TabularPredictor:
    """The predictor of a model."""
    return TabularPredictor(model)
