"""A downloaded model answers as it did in training, without any server."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.torch import save

from adapters.dataset_files import UnreadableDataset
from cli.errors import CommandError
from cli.predict import predict as command
from recipes import model_file
from recipes.images.spec import IMAGES
from recipes.model_file import UnreadableModel
from recipes.predict import predict
from recipes.prediction import MissingColumns
from recipes.tabular.spec import TABULAR
from schemas.recipe import RecipeSpec
from tests.recipes.made_up import figures, fruit, prices, train, trained, write_csv


def exported(path: Path, spec: RecipeSpec, dataset: Path, parameters: Mapping[str, Any], **changed: Any) -> Path:
    """A model as it is downloaded."""
    result = trained(train(spec, dataset, parameters))
    complete = spec.parameters.model_validate(dict(parameters)).model_dump(mode="json")
    manifest = {
        "format": model_file.FORMAT,
        "format_version": model_file.FORMAT_VERSION,
        "recipe": {"name": spec.name, "version": spec.version},
        "parameters": complete,
        "model": result.manifest,
        "metrics": result.metrics,
        **changed,
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(model_file.MANIFEST, json.dumps(manifest, ensure_ascii=False))
        archive.writestr(model_file.WEIGHTS, save(dict(result.weights)))
    return path


class TestTables:
    def test_answers_are_those_of_training(self, tmp_path: Path) -> None:
        data = fruit(tmp_path / "fruit.csv")
        model = exported(tmp_path / "model.zip", TABULAR, data, {"target": "وضعیت", "epochs": 5, "dropout": 0.1})
        metrics = json.loads(zipfile.ZipFile(model).read("manifest.json"))["metrics"]
        answers = predict(model, data)
        truth = pl.read_csv(data)["وضعیت"]
        assert answers.columns == ["prediction", "confidence"]
        assert answers.height == truth.len()
        assert set(answers["prediction"]) <= {"رسیده", "کال"}
        assert answers["confidence"].is_between(0.5, 1).all()
        right = float((answers["prediction"] == truth).mean())  # type: ignore[arg-type]
        # Of the rows it was measured on and of those it was trained on (dropout is over), the shares that are right.
        assert right >= min(metrics["val_accuracy"], metrics["accuracy"]) - 0.02

    def test_numbers_come_in_their_own_unit(self, tmp_path: Path) -> None:
        data = prices(tmp_path / "prices.csv")
        asked = {"target": "price", "epochs": 20, "validation_fraction": 0.0}
        model = exported(tmp_path / "model.zip", TABULAR, data, asked)
        answers = predict(model, data)
        assert answers.columns == ["prediction"]
        assert float((answers["prediction"] - pl.read_csv(data)["price"]).abs().mean()) < 12_000  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("labels", "type"),
        [([0, 1], pl.Int64), ([0.5, 1.5], pl.Float64), (["true", "false"], pl.Boolean), (["007", "x"], pl.String)],
    )
    def test_labels_come_back_in_their_own_type(self, tmp_path: Path, labels: list[object], type: object) -> None:
        data = write_csv(tmp_path / "t.csv", {"a": list(range(20)), "y": labels * 10})
        model = exported(tmp_path / "model.zip", TABULAR, data, {"target": "y", "epochs": 1})
        assert predict(model, data)["prediction"].dtype == type

    def test_unknown_and_missing_values_and_other_columns_are_no_harm(self, tmp_path: Path) -> None:
        model = exported(
            tmp_path / "model.zip", TABULAR, fruit(tmp_path / "fruit.csv"), {"target": "وضعیت", "epochs": 2}
        )
        strange = write_csv(
            tmp_path / "strange.csv",
            {
                "more": ["x", "y", "z"],
                "picked": ["yesterday", None, "2024-05-05"],
                "washed": ["perhaps", None, "True"],
                "نوع": [7, None, "هلو"],
                "وزن": ["heavy", 1e300, "Infinity"],
            },
        )
        answers = predict(model, strange)
        assert answers.height == 3
        assert answers["confidence"].is_finite().all()

    def test_a_value_counts_as_itself_however_the_file_spells_it(self, tmp_path: Path) -> None:
        data = write_csv(
            tmp_path / "t.csv", {"code": ["1", "2.50", "True", "x"] * 10, "y": ["one", "two", "three", "four"] * 10}
        )
        model = exported(tmp_path / "model.zip", TABULAR, data, {"target": "y", "epochs": 30, "learning_rate": 0.02})
        numbers = write_csv(tmp_path / "numbers.csv", {"code": [1.0, 2.5]})
        booleans = write_csv(tmp_path / "booleans.csv", {"code": ["true", "TRUE"]})
        assert predict(model, numbers)["prediction"].to_list() == ["one", "two"]
        assert predict(model, booleans)["prediction"].to_list() == ["three", "three"]

    def test_columns_that_lack_are_named(self, tmp_path: Path) -> None:
        model = exported(
            tmp_path / "model.zip", TABULAR, fruit(tmp_path / "fruit.csv"), {"target": "وضعیت", "epochs": 1}
        )
        with pytest.raises(MissingColumns) as raised:
            predict(model, write_csv(tmp_path / "t.csv", {"washed": [True], "picked": ["2024-01-01"]}))
        assert raised.value.names == ["وزن", "نوع"]
        with pytest.raises(CommandError, match=r"t\.csv cannot be predicted on: .*وزن"):
            command(model, tmp_path / "t.csv")


class TestImages:
    def test_arrays_archives_folders_and_files(self, tmp_path: Path) -> None:
        data = figures(tmp_path / "figures.npz")
        model = exported(tmp_path / "model.zip", IMAGES, data, {"epochs": 6, "width": 8})
        arrays = np.load(data)
        answers = predict(model, data)
        assert float((answers["prediction"].to_numpy() == arrays["y"]).mean()) > 0.9
        assert answers["prediction"].dtype == pl.Int64
        np.savez(tmp_path / "unlabelled.npz", x=arrays["x"][:5])
        assert predict(model, tmp_path / "unlabelled.npz").equals(answers.head(5))
        folder = tmp_path / "folder"
        folder.mkdir()
        for number in range(5):
            Image.fromarray(arrays["x"][number]).save(folder / f"{number}.png")
        assert predict(model, folder)["prediction"].equals(answers["prediction"].head(5))
        assert predict(model, folder / "0.png")["prediction"].equals(answers["prediction"].head(1))
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for number in range(5):
                archive.write(folder / f"{number}.png", f"all/{number}.png")
        assert predict(model, tmp_path / "some.zip")["prediction"].equals(answers["prediction"].head(5))


class TestModelFiles:
    def test_another_format_version_is_refused(self, tmp_path: Path) -> None:
        data = prices(tmp_path / "prices.csv", rows=20)
        model = exported(tmp_path / "m.zip", TABULAR, data, {"target": "price", "epochs": 1}, format_version=2)
        with pytest.raises(UnreadableModel, match="format version 2"):
            predict(model, data)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04\x95 a pickle"])
    def test_what_is_no_model_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.zip").write_bytes(content)
        with pytest.raises(UnreadableModel):
            predict(tmp_path / "m.zip", tmp_path)
        with pytest.raises(CommandError, match=r"m\.zip is not a model that can be used"):
            command(tmp_path / "m.zip", tmp_path, output=tmp_path / "answers.csv")
        assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]


class TestUnreadableImages:
    @pytest.mark.parametrize("name", ["a.npz", "a.zip", "a.png", "a.csv"])
    def test_they_are_told_as_unreadable(self, tmp_path: Path, name: str) -> None:
        asked = {"epochs": 1, "width": 2}
        model = exported(tmp_path / "model.zip", IMAGES, figures(tmp_path / "figures.npz", rows=12), asked)
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(UnreadableDataset):
            predict(model, tmp_path / name)

    def test_arrays_that_hold_no_images(self, tmp_path: Path) -> None:
        asked = {"epochs": 1, "width": 2}
        model = exported(tmp_path / "model.zip", IMAGES, figures(tmp_path / "figures.npz", rows=12), asked)
        np.savez(tmp_path / "flat.npz", x=np.zeros((3, 5)))
        with pytest.raises(UnreadableDataset, match="no images"):
            predict(model, tmp_path / "flat.npz")
        np.savez(tmp_path / "labels.npz", labels=np.zeros(3, np.int64))
        with pytest.raises(MissingColumns):
            predict(model, tmp_path / "labels.npz")
