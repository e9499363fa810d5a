"""The training function."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from recipes.training import Diverged, Ready, Result, TrainingRun


def train(run: TrainingRun) -> Iterator[Result]:
    """Write the time, and give up: how a job ends is not what is measured."""
    began = time.time()
    with Path(os.environ["BENCH_FIRST_LINE"]).open("a") as said:
        said.write(f"{began}\n")
    yield Ready()
    raise Diverged("nothing was trained")


def predict(*_: Any) -> NoReturn:
    """There is no model."""
    raise NotImplementedError
