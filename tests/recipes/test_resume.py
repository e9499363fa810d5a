"""An attempt that goes on from a checkpoint is the attempt that was never interrupted, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.images.spec import IMAGES
from recipes.tabular.spec import TABULAR
from recipes.training import Interrupted, Result, Trained
from schemas.recipe import RecipeSpec
from tests.recipes.made_up import LeaveAfter, epochs, figures, fruit, prices, train, trained
from workers.checkpoint_files import from_bytes, same, to_bytes

CLASSES = {"target": "وضعیت", "epochs": 3, "dropout": 0.3, "class_weights": "balanced", "hidden": [8]}
NUMBERS = {"target": "price", "epochs": 4, "optimizer": "sgd", "patience": 1, "schedule": "plateau", "hidden": [8]}
COSINE = {"target": "وضعیت", "epochs": 3, "schedule": "cosine", "validation_fraction": 0.0, "clip_gradients": 0.5}
PICTURES = {"epochs": 2, "flip": True, "dropout": 0.2, "width": 4}

CASES: dict[str, tuple[RecipeSpec, Any, Mapping[str, Any]]] = {
    "classes": (TABULAR, fruit, CLASSES),
    "numbers": (TABULAR, prices, NUMBERS),
    "cosine": (TABULAR, fruit, COSINE),
    "pictures": (IMAGES, figures, PICTURES),
}


def saved(results: list[Result]) -> Mapping[str, Any]:
    """The state with which an interrupted attempt ended, as it comes back from a file."""
    last = results[-1]
    assert isinstance(last, Interrupted)
    return from_bytes(to_bytes(last.state_dict()))


@pytest.mark.parametrize("case", CASES)
class TestResuming:
    def test_it_equals_an_uninterrupted_attempt_wherever_it_was_cut(self, tmp_path: Path, case: str) -> None:
        spec, make, parameters = CASES[case]
        data = make(tmp_path / ("data.npz" if spec is IMAGES else "data.csv"), rows=60)
        whole = train(spec, data, parameters)
        for cut in (0, 1, 4, 6, 7, 9, 15):  # Six or seven questions an epoch: in steps, between epochs, in measuring.
            first = train(spec, data, parameters, leave=LeaveAfter(cut))
            if isinstance(first[-1], Trained):
                continue  # Early stopping came sooner.
            second = train(spec, data, parameters, state=saved(first))
            metrics = [result.metrics for result in epochs(first) + epochs(second)]
            assert metrics == [result.metrics for result in epochs(whole)], cut
            assert trained(second).metrics == trained(whole).metrics
            assert same(dict(trained(second).weights), dict(trained(whole).weights)), cut

    def test_it_may_be_cut_at_every_step(self, tmp_path: Path, case: str) -> None:
        spec, make, parameters = CASES[case]
        data = make(tmp_path / ("data.npz" if spec is IMAGES else "data.csv"), rows=40)
        asked = {**parameters, "epochs": 1}
        whole = trained(train(spec, data, asked))
        results = train(spec, data, asked, leave=LeaveAfter(1))
        for _ in range(20):
            if isinstance(results[-1], Trained):
                break
            results = train(spec, data, asked, state=saved(results), leave=LeaveAfter(1))
        assert trained(results).metrics == whole.metrics
        assert same(dict(trained(results).weights), dict(whole.weights))


def test_it_goes_on_from_the_end_of_any_epoch(tmp_path: Path) -> None:
    data = fruit(tmp_path / "fruit.csv", rows=60)
    kept: list[bytes] = []
    whole = train(TABULAR, data, CLASSES)
    for questions in range(30):
        results = train(TABULAR, data, CLASSES, leave=LeaveAfter(questions))
        if isinstance(results[-1], Interrupted) and results[-1].step == 0:
            kept.append(to_bytes(results[-1].state_dict()))
    assert len(kept) == 3
    for state in kept:
        resumed = train(TABULAR, data, CLASSES, state=from_bytes(state))
        assert same(dict(trained(resumed).weights), dict(trained(whole).weights))
