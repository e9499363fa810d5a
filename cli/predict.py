"""`ravand predict`: use a downloaded model, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError


def predict(
    model_file: Annotated[Path, typer.Argument(help="A downloaded model (zip).", exists=True, dir_okay=False)],
    data: Annotated[Path, typer.Argument(help="What to predict on: a CSV for tabular models.", exists=True)],
    json: Annotated[bool, typer.Option("--json", help="An array of objects instead of CSV.")] = False,
) -> None:
    """Predict with a downloaded model: a CSV with the column `prediction`, one line a row. No server is needed."""
    from recipes.predict import UnusableModel, predict_rows

    try:
        rows = predict_rows(model_file, data)
    except UnusableModel as error:
        raise CommandError(str(error)) from None
    if json:
        import orjson

        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    import csv
    import sys

    columns = list(rows[0]) if rows else ["prediction"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
