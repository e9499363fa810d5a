"""`ravand train`: ask for a job and watch it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer

from cli import datasets, progress
from cli.errors import CommandError
from cli.live import follow
from cli.output import print_json, print_table
from cli.server import Server

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recipes(json: Json = False) -> None:
    """What can be trained, with the parameters of each."""
    found = Server.of_user().get("/api/recipes")
    if json:
        print_json(found)
        return
    for recipe in found:
        typer.secho(recipe["name"], bold=True)
        typer.echo(recipe["description"])
        fields = recipe["parameters"].get("properties", {})
        required = set(recipe["parameters"].get("required", ()))
        print_table(
            ("parameter", "default", "meaning"),
            (
                (
                    name,
                    "required" if name in required else orjson.dumps(field.get("default")).decode(),
                    field.get("description"),
                )
                for name, field in fields.items()
            ),
            empty="No parameters.",
        )


def train(
    dataset: Annotated[str, typer.Argument(help="Id or name of the dataset.")],
    recipe: Annotated[str, typer.Option(help="What to train; `ravand recipes` lists them.")] = "tabular",
    target: Annotated[str | None, typer.Option(help="Column to predict (short for -p target=…).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (short for -p epochs=…).")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, as often as needed; values are JSON.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model; the dataset's by default.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")] = False,
    json: Json = False,
) -> None:
    """Train a model and watch every epoch arrive. Exit status 0 when the job completes (or was asked for, with --detach)."""
    server = Server.of_user()
    body: dict[str, Any] = {
        "recipe": recipe,
        "dataset_id": datasets.find(server, dataset)["id"],
        "parameters": _parameters(target, epochs, parameter or []),
    }
    body |= {key: value for key, value in (("name", name), ("model", model)) if value is not None}
    job = server.post("/api/train", body)
    if detach:
        print_json(job) if json else typer.echo(job["job_id"])
        return
    if not json:
        typer.echo(f"job {job['job_id']}")
    watch(server, job["job_id"], json=json)


def watch(server: Server, job_id: str, *, json: bool = False, since: int = 0) -> None:
    """Follow a job to its rest and say how it ended; exit status 1 unless it completed."""
    messages = follow(server, job_id, since=since)
    if json:
        for _ in messages:
            pass
    else:
        progress.show(messages)
    ended = server.get("/api/train/status", job_id=job_id)
    if json:
        print_json(ended)
    else:
        summarise(ended)
    if ended["status"] != "completed":
        sys.exit(1)


def summarise(job: dict[str, Any]) -> None:
    """Say how a job stands, with its figures and, if it failed, why."""
    typer.echo(job["message"])
    if job.get("metrics"):
        typer.echo(progress.metrics_line(job["metrics"]))
    if error := job.get("error"):
        typer.secho(f"{error['code']}: {error['message']}", fg=typer.colors.RED, err=True)
        for line in (error.get("log") or "").splitlines()[-20:]:
            typer.echo(f"  | {line}", err=True)
        typer.echo(f"Mend the cause, then `ravand retry {job['job_id']}`.", err=True)


def _parameters(target: str | None, epochs: int | None, given: list[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(f"-p {text}: not of the form name=value.", "For example: -p learning_rate=0.01")
        try:
            parameters[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            parameters[name] = value  # A bare word is text: nobody wants to type quotes within quotes.
    if target is not None:
        parameters["target"] = target
    if epochs is not None:
        parameters["epochs"] = epochs
    return parameters
