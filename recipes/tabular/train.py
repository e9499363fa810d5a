"""Trains the recipe `tabular`: reads the table, turns it into tensors once, and works through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch

from adapters.dataset_files import read_table
from recipes import random_state
from recipes.fitting import Examples, Lesson, fit
from recipes.objectives import Classification, Objective, Regression, balanced_weights
from recipes.split import split
from recipes.tabular.encoding import TableEncoding, fit_encoding
from recipes.tabular.network import TableNetwork
from recipes.tabular.spec import TabularParameters
from recipes.target import Labels, Target, encode_target, fit_target, prepared, usable
from recipes.training import Result, TrainingRun, UnusableData


def train(run: TrainingRun) -> Iterator[Result]:
    """Yield the results of one attempt."""
    parameters: TabularParameters = run.parameters
    table = labelled_rows(run, read_table(run.dataset, run.format), parameters.target)
    random_state.seed(parameters.seed)

    target = fit_target(table[parameters.target], parameters.task)
    targets = encode_target(table[parameters.target], target)
    classes = targets if isinstance(target, Labels) else None
    training, validation = split(table.height, parameters.validation_fraction, parameters.seed, classes)

    features = table.select(feature_names(parameters, table))
    encoding, useless = fit_encoding(features[training], parameters.max_categories)
    if useless:
        run.log(f"Left out, since they do not vary or never repeat: {', '.join(useless[:50])}.")
    if not encoding.columns:
        raise UnusableData("No column is left to learn from: each is empty, constant, or different in every row.")

    numbers, categories = encoding.encode(features)
    tensors = [torch.from_numpy(numbers)] + ([torch.from_numpy(categories)] if encoding.categories else [])
    answers = torch.from_numpy(targets)

    def examples(rows: np.ndarray[Any, np.dtype[np.int64]]) -> Examples:
        chosen = torch.from_numpy(rows)
        return Examples(tuple(t[chosen].to(run.device) for t in tensors), answers[chosen].to(run.device))

    taught = examples(training)
    run.log(
        f"{len(training)} rows to train on, {len(validation)} to measure on, {len(encoding.columns)} columns; "
        + (f"{target.outputs} classes." if isinstance(target, Labels) else "a number to predict.")
    )
    yield from fit(
        run,
        parameters,
        Lesson(
            model=TableNetwork.of(encoding, target, parameters).to(run.device),
            objective=objective(target, taught, parameters),
            training=taught,
            validation=examples(validation) if len(validation) else None,
            manifest=manifest(encoding, target),
        ),
    )


def labelled_rows(run: TrainingRun, table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows in which the target has a value; says how many have none."""
    if name not in table.columns:
        raise UnusableData(f"The dataset has no column {name!r}.")
    keep = usable(table[name])
    dropped = int((~keep).sum())
    if dropped:
        run.log(f"{dropped} of {table.height} rows have no value in {name!r} and are left out.")
    return table.filter(keep).with_columns(prepared(table[name].filter(keep)))


def feature_names(parameters: TabularParameters, table: pl.DataFrame) -> list[str]:
    """The columns to learn from, or `UnusableData` where there are none."""
    unknown = [name for name in parameters.features or [] if name not in table.columns]
    if unknown:
        raise UnusableData(f"The dataset has no column {unknown[0]!r}.")
    names = parameters.feature_names(table.columns)
    if not names:
        raise UnusableData("There is no other column to learn from.")
    return names


def objective(target: Target, taught: Examples, parameters: TabularParameters) -> Objective:
    """The loss that fits the target."""
    if not isinstance(target, Labels):
        return Regression(target.mean, target.scale)
    balanced = parameters.class_weights == "balanced"
    return Classification(target.outputs, balanced_weights(taught.targets, target.outputs) if balanced else None)


def manifest(encoding: TableEncoding, target: Target) -> dict[str, Any]:
    """What prediction needs beside weights and parameters."""
    described: dict[str, Any] = msgspec.to_builtins({"columns": encoding.columns, "target": target})
    return described
