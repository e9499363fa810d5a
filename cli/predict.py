"""`ravand predict`: use a downloaded model, without any server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl


def predict(
    model_file: Annotated[Path, typer.Argument(help="A downloaded model: the zip, or its folder.", exists=True)],
    data: Annotated[
        Path, typer.Argument(help="CSV or Parquet; for image models NPZ, or a zip or folder of images.", exists=True)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")] = None,
    json: Annotated[bool, typer.Option("--json", help="An array of objects instead of CSV.")] = False,
) -> None:
    """Predict with a downloaded model: a CSV with the column `prediction`, one line a row. No server is needed."""
    from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
    from recipes.catalog import UnknownRecipe
    from recipes.model_file import UnreadableModel
    from recipes.predict import predictions
    from recipes.prediction import MissingColumns

    write = _write_json if json else _write_csv
    try:
        if output is None:
            write(predictions(model_file, data), sys.stdout)
            sys.stdout.flush()  # So that a reader who went away is noticed here, and not at the very end.
            return
        temporary = output.with_name(output.name + ".part")
        try:
            with temporary.open("w", encoding="utf-8") as out:
                write(predictions(model_file, data), out)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    except (UnreadableModel, UnknownRecipe) as error:
        raise CommandError(f"{model_file} is not a model that can be used: {error}") from None
    except (UnreadableDataset, DatasetTooLarge, MissingColumns) as error:
        raise CommandError(f"{data} cannot be predicted on: {error}") from None


def _write_csv(parts: Iterator[pl.DataFrame], out: IO[str]) -> None:
    for number, part in enumerate(parts):
        out.write(part.write_csv(include_header=number == 0))


def _write_json(parts: Iterator[pl.DataFrame], out: IO[str]) -> None:
    import orjson

    out.write("[")
    between = "\n"
    for part in parts:
        for row in part.iter_rows(named=True):
            out.write(between + orjson.dumps(row, default=str).decode())
            between = ",\n"
    out.write("\n]\n")
