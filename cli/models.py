"""Commands about registered models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError
from cli.output import local_time, print_json, print_table, size
from cli.progress import metrics_line
from cli.server import Server, problem

app = typer.Typer(help="Registered models: list, look, download.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, json: Json = False) -> None:
    """The registered models, newest first."""
    found = Server.of_user().get("/api/models", limit=limit)
    if json:
        print_json(found)
        return
    print_table(
        ("name", "versions", "newest"),
        ((m["name"], m["versions"], local_time(m["latest"]["created_at"])) for m in found),
        empty="No models yet. A completed training registers one.",
    )


@app.command()
def show(name: str, json: Json = False) -> None:
    """One model with its versions."""
    found = Server.of_user().get(f"/api/models/{name}")
    if json:
        print_json(found)
        return
    print_table(
        ("version", "registered", "job", "metrics"),
        (
            (v["number"], local_time(v["created_at"]), v["job_id"], metrics_line(v["metrics"]))
            for v in found["versions"]
        ),
        empty="No versions.",
    )


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="NAME for the newest version, NAME:3 for the third.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; NAME-N.zip by default.")] = None,
    json: Json = False,
) -> None:
    """Download a model version as a zip of `model.safetensors` and `manifest.json`."""
    server = Server.of_user()
    base, colon, number = name.rpartition(":")
    if not colon:
        base, number = name, str(max(v["number"] for v in server.get(f"/api/models/{name}")["versions"]))
    target = output or Path(f"{base}-{number}.zip")
    written = save(server, base, number, target)
    if json:
        print_json({"file": str(target), "bytes": written, "name": base, "number": int(number)})
    else:
        typer.echo(f"{target} ({size(written)})")


def save(server: Server, name: str, number: str, target: Path) -> int:
    """Stream a model version to `target`, complete or not at all; answer its bytes. Raises `CommandError`."""
    temporary = target.with_name(target.name + ".part")
    written = 0
    try:
        with server.http.stream("GET", f"/api/models/{name}/versions/{number}/download", timeout=600.0) as answer:
            if not answer.is_success:
                answer.read()
                raise problem(answer)
            with temporary.open("wb") as out:
                for chunk in answer.iter_bytes():
                    written += out.write(chunk)
            expected = answer.headers.get("Content-Length")
            if expected is not None and int(expected) != written:
                raise CommandError(f"The download broke off at {written} of {expected} bytes.", "Try again.")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return written
