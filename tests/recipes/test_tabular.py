"""What the recipe `tabular` learns, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recipes.tabular.spec import TABULAR
from recipes.training import Diverged, Ready, StepResult, UnusableData
from tests.recipes.made_up import epochs, fruit, prices, train, trained, write_csv


class TestClassification:
    def test_it_learns_from_numbers_texts_and_missing_values(self, tmp_path: Path) -> None:
        results = train(TABULAR, fruit(tmp_path / "fruit.csv"), {"target": "وضعیت", "epochs": 15})
        assert trained(results).metrics["val_accuracy"] > 0.85
        assert trained(results).manifest["target"]["values"] == ("رسیده", "کال")

    def test_every_epoch_runs_and_every_figure_is_finite(self, tmp_path: Path) -> None:
        results = train(TABULAR, fruit(tmp_path / "fruit.csv"), {"target": "وضعیت", "epochs": 4})
        assert isinstance(results[0], Ready)
        assert [result.epoch for result in epochs(results)] == [1, 2, 3, 4]
        assert all(math.isfinite(value) for result in epochs(results) for value in result.metrics.values())
        steps = [result.step for result in results if isinstance(result, StepResult)]
        assert steps == list(range(1, len(steps) + 1))
        names = {"loss", "accuracy", "macro_f1", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate"}
        assert set(trained(results).metrics) == names

    def test_balanced_weights_help_a_rare_class(self, tmp_path: Path) -> None:
        rows = 400
        rare = [number % 20 == 0 for number in range(rows)]
        # The rare class occurs only where the frequent one is still three times as likely.
        value = [is_rare or number % 19 in (2, 7, 11) for number, is_rare in enumerate(rare)]
        data = write_csv(tmp_path / "rare.csv", {"value": value, "label": ["rare" if r else "usual" for r in rare]})
        asked = {"target": "label", "epochs": 8, "hidden": [4]}
        f1 = {
            weights: trained(train(TABULAR, data, asked | {"class_weights": weights})).metrics["macro_f1"]
            for weights in ("none", "balanced")
        }
        assert f1["balanced"] > f1["none"]

    def test_rows_without_a_label_are_left_out_and_told(self, tmp_path: Path) -> None:
        data = write_csv(tmp_path / "t.csv", {"a": range(40), "label": ["x", "y", "y", None] * 10})
        said: list[str] = []
        train(TABULAR, data, {"target": "label", "epochs": 1}, log=said.append)
        assert "10 of 40 rows have no value in 'label' and are left out." in said

    def test_columns_that_say_nothing_are_left_out_and_told(self, tmp_path: Path) -> None:
        columns = {
            "a": range(40),
            "same": ["x"] * 40,
            "id": [f"id-{number}" for number in range(40)],
            "label": ["x", "y"] * 20,
        }
        said: list[str] = []
        results = train(
            TABULAR, write_csv(tmp_path / "t.csv", columns), {"target": "label", "epochs": 1}, log=said.append
        )
        assert [column["name"] for column in trained(results).manifest["columns"]] == ["a"]
        assert "Left out, since they do not vary or never repeat: same, id." in said

    def test_the_same_seed_gives_the_same_model(self, tmp_path: Path) -> None:
        data = fruit(tmp_path / "fruit.csv")
        asked = {"target": "وضعیت", "epochs": 2, "dropout": 0.2}
        same = [trained(train(TABULAR, data, asked)).metrics for _ in range(2)]
        assert same[0] == same[1]
        assert trained(train(TABULAR, data, asked | {"seed": 1})).metrics != same[0]


class TestRegression:
    def test_it_learns_a_number(self, tmp_path: Path) -> None:
        results = train(TABULAR, prices(tmp_path / "prices.csv"), {"target": "price", "epochs": 25})
        metrics = trained(results).metrics
        assert metrics["val_r2"] > 0.95
        assert metrics["val_mae"] < 12_000
        assert set(metrics) == {"loss", "mae", "r2", "val_loss", "val_mae", "val_r2", "learning_rate"}

    def test_numbers_beyond_single_precision_are_no_harm(self, tmp_path: Path) -> None:
        huge = [1e300 * (1 + number) for number in range(40)]
        data = write_csv(tmp_path / "t.csv", {"a": huge, "b": range(40), "y": [number * 1.5 for number in range(40)]})
        metrics = trained(train(TABULAR, data, {"target": "y", "epochs": 2})).metrics
        assert all(math.isfinite(value) for value in metrics.values())


class TestEarlyStopping:
    def test_it_stops_when_patience_ends_and_keeps_the_best(self, tmp_path: Path) -> None:
        asked = {"target": "وضعیت", "epochs": 200, "patience": 2, "learning_rate": 0.05}
        results = train(TABULAR, fruit(tmp_path / "fruit.csv", rows=80), asked)
        last, best = trained(results).last_epoch, trained(results).best_epoch
        assert last == best + 2 < 200
        assert trained(results).metrics == epochs(results)[best - 1].metrics
        assert [result.epoch for result in epochs(results) if result.best][-1] == best


class TestSchedules:
    @pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
    def test_the_rate_is_among_the_figures(self, tmp_path: Path, schedule: str) -> None:
        asked = {"target": "وضعیت", "epochs": 30, "schedule": schedule, "learning_rate": 0.5}
        rates = [r.metrics["learning_rate"] for r in epochs(train(TABULAR, fruit(tmp_path / "f.csv", rows=60), asked))]
        assert rates[0] == 0.5
        assert rates == sorted(rates, reverse=True)
        assert (rates[-1] < 0.5) == (schedule != "constant")


class TestRefusals:
    @pytest.mark.parametrize(
        ("columns", "parameters", "said"),
        [
            ({"a": range(8), "y": ["x"] * 8}, {}, "same value"),
            ({"a": range(8), "y": [None] * 7 + ["x"]}, {}, "Only 1 rows"),
            ({"a": range(8)}, {}, "no column 'y'"),
            ({"y": ["x", "z"] * 4}, {}, "no other column"),
            ({"a": ["q"] * 8, "y": ["x", "z"] * 4}, {}, "No column is left"),
            ({"a": range(8), "y": ["x", "z"] * 4}, {"task": "regression"}, "needs numbers"),
            ({"a": range(8), "y": ["x", "z"] * 4}, {"features": ["nope"]}, "no column 'nope'"),
            ({"a": range(8), "y": ["2024-01-01", "2024-01-02"] * 4}, {}, "is a date"),
        ],
    )
    def test_unusable_data(
        self, tmp_path: Path, columns: dict[str, list[object]], parameters: dict[str, object], said: str
    ) -> None:
        data = write_csv(tmp_path / "t.csv", columns)
        with pytest.raises(UnusableData, match=said):
            train(TABULAR, data, {"target": "y", "epochs": 1, **parameters})

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    @pytest.mark.parametrize("make", [fruit, prices])
    def test_a_huge_learning_rate_diverges(self, tmp_path: Path, make: object, optimizer: str) -> None:
        assert callable(make)
        data = make(tmp_path / "t.csv", rows=60)
        asked = {"target": "price" if make is prices else "وضعیت", "learning_rate": 1e6, "optimizer": optimizer}
        with pytest.raises(Diverged):
            train(TABULAR, data, asked)
