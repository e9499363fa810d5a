"""Small data to learn from, and a training function run to its end without any child process."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes import catalog
from recipes.training import EpochResult, Interrupted, Result, StateDict, Trained, TrainingRun, never
from schemas.recipe import RecipeSpec


def write_csv(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    """A table; None is a missing value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in zip(*columns.values(), strict=True))
    return path


def fruit(path: Path, rows: int = 240, seed: int = 0) -> Path:
    """Ripe or not, by weight and kind: numbers, Persian texts, booleans, dates, and some values missing."""
    draw = np.random.default_rng(seed)
    weight = draw.normal(150, 40, rows)
    kind = draw.choice(["سیب", "گلابی", "انار"], rows)
    ripe = np.where((weight > 150) ^ (kind == "انار"), "رسیده", "کال")
    return write_csv(
        path,
        {
            "وزن": [None if draw.random() < 0.03 else round(float(value), 2) for value in weight],
            "نوع": [None if draw.random() < 0.03 else str(value) for value in kind],
            "washed": [bool(value) for value in draw.random(rows) < 0.5],
            "picked": [f"2024-0{1 + number % 9}-1{number % 10}" for number in range(rows)],
            "وضعیت": [str(value) for value in ripe],
        },
    )


def prices(path: Path, rows: int = 240, seed: int = 0) -> Path:
    """A price, from size and quarter."""
    draw = np.random.default_rng(seed)
    size = draw.uniform(30, 200, rows)
    quarter = draw.choice(["north", "south"], rows)
    price = 1000 * size + np.where(quarter == "north", 50_000, 0) + draw.normal(0, 500, rows)
    return write_csv(
        path,
        {
            "size": [round(float(value), 1) for value in size],
            "quarter": [str(value) for value in quarter],
            "price": [round(float(value), 2) for value in price],
        },
    )


def figures(path: Path, rows: int = 120, classes: int = 3, seed: int = 0) -> Path:
    """Squares, horizontal and vertical lines, 12 × 12, in an NPZ file."""
    draw = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    image = draw.integers(0, 60, (rows, 12, 12)).astype(np.uint8)
    for number in range(rows):
        top, left = draw.integers(0, 6, 2)
        height, width = [(5, 5), (1, 6), (6, 1)][label[number]]
        image[number, top : top + height, left : left + width] = 255
    np.savez(path, x=image, y=label)
    return path


def train(
    spec: RecipeSpec,
    dataset: Path,
    parameters: Mapping[str, Any],
    *,
    state: StateDict | None = None,
    leave: Callable[[], bool] = never,
    log: Callable[[str], None] = lambda _line: None,
) -> list[Result]:
    """All results. States are asked for at every epoch, as the most eager caller would."""
    model = spec.parameters.model_validate(dict(parameters))
    run = TrainingRun(
        parameters=model,
        epochs=getattr(model, "epochs"),  # noqa: B009  # Every recipe here has it; its base class need not.
        dataset=dataset,
        format="npz" if dataset.suffix == ".npz" else "images" if dataset.suffix == ".zip" else "csv",
        device="cpu",
        state=state,
        leave=leave,
        logs_now=lambda: True,
        log=log,
    )
    results: list[Result] = []
    for result in catalog.function(spec.train)(run):
        if isinstance(result, EpochResult | Interrupted):
            result.state_dict()
        results.append(result)
    return results


def epochs(results: Sequence[Result]) -> list[EpochResult]:
    """Those that end an epoch."""
    return [result for result in results if isinstance(result, EpochResult)]


def trained(results: Sequence[Result]) -> Trained:
    """The last one, which must be a model."""
    last = results[-1]
    assert isinstance(last, Trained)
    return last


class LeaveAfter:
    """Tells to leave at the nth time that somebody asks."""

    def __init__(self, questions: int) -> None:
        """0 leaves at the first."""
        self.left = questions

    def __call__(self) -> bool:
        """Whether to leave."""
        self.left -= 1
        return self.left < 0
