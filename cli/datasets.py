"""Commands about datasets."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from cli.errors import CommandError
from cli.output import local_time, print_json, print_table, size
from cli.server import Server

app = typer.Typer(help="Upload datasets and look at them.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PAGE = 200


@app.command()
def upload(
    file: Annotated[
        Path,
        typer.Argument(help="A CSV, Parquet or NPZ file, or a zip of folders of images.", exists=True, dir_okay=False),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the dataset; the file's by default.")] = None,
    json: Json = False,
) -> None:
    """Upload a file as a new, immutable dataset version."""
    dataset = send(Server.of_user(), file, name)
    if json:
        print_json(dataset)
        return
    typer.echo(
        f"{dataset['name']}, version {dataset['number']}: {dataset['rows']:,} rows, {len(dataset['columns'])} columns"
    )
    typer.echo(f"id {dataset['id']}")


@app.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=PAGE)] = 50, json: Json = False) -> None:
    """The newest datasets."""
    datasets = Server.of_user().get("/api/datasets", limit=limit)
    if json:
        print_json(datasets)
        return
    print_table(
        ("id", "name", "version", "rows", "columns", "size"),
        ((d["id"], d["name"], d["number"], f"{d['rows']:,}", len(d["columns"]), size(d["bytes"])) for d in datasets),
        empty="No datasets yet. Upload one with `ravand dataset upload FILE`.",
    )


@app.command()
def show(dataset: Annotated[str, typer.Argument(help="Id or name.")], json: Json = False) -> None:
    """One dataset with its columns."""
    found = find(Server.of_user(), dataset)
    if json:
        print_json(found)
        return
    typer.echo(
        f"{found['name']}, version {found['number']} ({found['id']}), {found['rows']:,} rows, {size(found['bytes'])}"
    )
    typer.echo(f"uploaded {local_time(found['created_at'])}, sha256 {found['sha256']}")
    print_table(
        ("column", "type", "missing"),
        ((c["name"], c["type"], c["missing"]) for c in found["columns"]),
        empty="No columns.",
    )


@app.command()
def preview(
    dataset: Annotated[str, typer.Argument(help="Id or name.")],
    rows: Annotated[int, typer.Option(min=1, max=100)] = 10,
    json: Json = False,
) -> None:
    """The first rows."""
    server = Server.of_user()
    answer = server.get(f"/api/datasets/{find(server, dataset)['id']}/preview", rows=rows)
    if json:
        print_json(answer)
        return
    print_table([column["name"] for column in answer["columns"]], answer["rows"], empty="No rows.")


def send(server: Server, file: Path, name: str | None = None) -> dict[str, Any]:
    """Upload `file`, streamed from disk. Raises `CommandError`."""
    with file.open("rb") as content:
        answer = server.call(
            "POST",
            "/api/datasets",
            files={"file": (file.name, cast(IO[bytes], content), "application/octet-stream")},
            data={"name": name} if name else {},
            timeout=600.0,
        )
    return cast(dict[str, Any], jsonlib.loads(answer.content))


def find(server: Server, wanted: str) -> dict[str, Any]:
    """A dataset by id, else the newest of that name. Raises `CommandError` when there is none."""
    path: str | None = "/api/datasets"
    params: dict[str, Any] = {"limit": PAGE}
    while path:
        page, path = server.get_page(path, **params)
        params = {}
        for dataset in page:
            if wanted in (dataset["id"], dataset["name"]):
                return cast(dict[str, Any], dataset)
    raise CommandError(
        f"There is no dataset {wanted!r} in your workspace.", "`ravand dataset list` shows what there is."
    )
