"""The specifications: what people may ask, and what is refused before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from recipes import catalog
from recipes.images.spec import IMAGES
from recipes.parameters import automatic_batch_size
from recipes.tabular.spec import TABULAR
from schemas.dataset_profile import Column, DatasetFormat, DatasetProfile


def profile(*columns: Column, rows: int = 100, format: DatasetFormat = "csv") -> DatasetProfile:
    """A profile with these columns."""
    return DatasetProfile(format=format, bytes=1, rows=rows, columns=columns, preview=())


def column(name: str, type: Any = "number", *, missing: int = 0, distinct: int | None = 50, **more: Any) -> Column:
    """A column of a profile."""
    return Column(name=name, type=type, missing=missing, distinct=distinct, **more)


class TestParameters:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"epochs": True},
            {"epochs": "5"},
            {"epochs": 0},
            {"epochs": 100_001},
            {"epochs": 2.5},
            {"learning_rate": float("nan")},
            {"learning_rate": float("inf")},
            {"learning_rate": 0},
            {"learning_rate": True},
            {"dropout": 1.0},
            {"seed": -1},
            {"hidden": [0]},
            {"hidden": [True]},
            {"task": "clustering"},
            {"patience": 3, "validation_fraction": 0},
            {"target": ""},
            {"target": 3},
            {"unheard_of": 1},
        ],
    )
    def test_wrong_values_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            TABULAR.parameters.model_validate({"target": "y", **wrong})

    def test_the_target_is_required(self) -> None:
        with pytest.raises(ValidationError, match="target"):
            TABULAR.parameters.model_validate({})

    @pytest.mark.parametrize("spec", [TABULAR, IMAGES])
    def test_the_form_explains_every_field(self, spec: Any) -> None:
        fields = spec.parameters.model_json_schema()["properties"]
        assert all(field.get("description") for field in fields.values())
        assert spec.parameters.model_json_schema()["additionalProperties"] is False

    def test_defaults_that_are_filled_in_are_valid_again(self) -> None:
        complete = TABULAR.parameters.model_validate({"target": "y"}).model_dump(mode="json")
        assert TABULAR.parameters.model_validate(complete).model_dump(mode="json") == complete
        assert complete["patience"] is None

    @pytest.mark.parametrize(("rows", "size"), [(1, 8), (150, 8), (1000, 16), (10_000, 128), (10_000_000, 512)])
    def test_the_batch_size_goes_by_the_rows(self, rows: int, size: int) -> None:
        assert automatic_batch_size(rows) == size


class TestTabularCheck:
    def problems(self, dataset: DatasetProfile, **parameters: Any) -> list[tuple[str, str]]:
        asked = TABULAR.parameters.model_validate({"target": "y", **parameters})
        return [(problem.field, problem.message) for problem in TABULAR.check(asked, dataset)]

    def test_a_fitting_dataset_has_none(self) -> None:
        assert self.problems(profile(column("a"), column("y", "text", distinct=3))) == []
        assert self.problems(profile(column("a"), column("y"))) == []

    @pytest.mark.parametrize(
        ("dataset", "parameters", "field", "said"),
        [
            (profile(column("a")), {}, "parameters.target", "no column 'y'"),
            (profile(column("a"), column("y", distinct=1)), {}, "parameters.target", "same value"),
            (profile(column("a"), column("y", missing=100, distinct=0)), {}, "parameters.target", "is missing"),
            (profile(column("a"), column("y", missing=97, distinct=2)), {}, "parameters.target", "Only 3 rows"),
            (profile(column("y")), {}, "parameters.target", "no other column"),
            (profile(column("a"), column("y")), {"ignore": ["a"]}, "parameters.features", "no other column"),
            (profile(column("a"), column("y")), {"ignore": ["b"]}, "parameters.ignore", "no column 'b'"),
            (profile(column("a"), column("y")), {"features": ["b"]}, "parameters.features", "no column 'b'"),
            (profile(column("a"), column("y")), {"features": ["y"]}, "parameters.features", "column to predict"),
            (profile(column("a", distinct=1), column("y")), {}, "parameters.features", "empty or the same"),
            (profile(column("a"), column("y", "text")), {"task": "regression"}, "parameters.task", "needs numbers"),
            (profile(column("a"), column("y", "datetime")), {}, "parameters.target", "is a date"),
            (profile(column("a"), column("y", "text", distinct=99)), {}, "parameters.target", "almost none"),
            (profile(column("a"), column("y")), {"class_weights": "balanced"}, "parameters.class_weights", "only"),
            (profile(column("a"), column("y"), format="npz"), {}, "dataset_id", "not npz"),
        ],
    )
    def test_problems_are_named_by_field(
        self, dataset: DatasetProfile, parameters: dict[str, Any], field: str, said: str
    ) -> None:
        ((found, message),) = self.problems(dataset, **parameters)
        assert found == field
        assert said in message


class TestImagesCheck:
    def problems(self, dataset: DatasetProfile, **parameters: Any) -> list[tuple[str, str]]:
        asked = IMAGES.parameters.model_validate(parameters)
        return [(problem.field, problem.message) for problem in IMAGES.check(asked, dataset)]

    def test_fitting_datasets_have_none(self) -> None:
        pixels = column("x", "image", distinct=None, shape=(28, 28))
        assert self.problems(profile(pixels, column("y", "integer", distinct=10), format="npz")) == []
        folders = profile(column("image", "image", distinct=None), column("label", "text", distinct=2), format="images")
        assert self.problems(folders) == []

    @pytest.mark.parametrize(
        ("dataset", "parameters", "field", "said"),
        [
            (profile(column("a"), column("y")), {}, "dataset_id", "not csv"),
            (
                profile(column("image", "image", distinct=None), column("label", "text", distinct=1), format="images"),
                {},
                "parameters.labels",
                "only one class",
            ),
            (profile(column("y", "integer"), format="npz"), {}, "parameters.images", "No array holds images"),
            (
                profile(column("x", "array", distinct=None, shape=(8, 8)), format="npz"),
                {},
                "parameters.images",
                "No array holds labels",
            ),
            (
                profile(column("x", "array", distinct=None, shape=(8, 8)), column("y", "integer"), format="npz"),
                {"images": "z"},
                "parameters.images",
                "no array 'z'",
            ),
            (
                profile(
                    column("x", "array", distinct=None, shape=(3,)), column("y", "integer", distinct=2), format="npz"
                ),
                {},
                "parameters.images",
                "no images",
            ),
        ],
    )
    def test_problems_are_named_by_field(
        self, dataset: DatasetProfile, parameters: dict[str, Any], field: str, said: str
    ) -> None:
        ((found, message),) = self.problems(dataset, **parameters)
        assert found == field
        assert said in message


class TestCatalog:
    def test_it_knows_both_recipes(self) -> None:
        assert {"tabular", "image-classification"} <= set(catalog.recipes())
        assert catalog.recipe("tabular", 1) is TABULAR

    @pytest.mark.parametrize(("name", "version"), [("nothing", None), ("tabular", 99)])
    def test_others_are_unknown(self, name: str, version: int | None) -> None:
        with pytest.raises(catalog.UnknownRecipe):
            catalog.recipe(name, version)

    def test_it_imports_neither_torch_nor_polars(self) -> None:
        code = "import recipes.catalog, sys; recipes.catalog.recipes(); sys.exit(bool({'torch', 'polars'} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
