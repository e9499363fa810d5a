"""`ravand demo`, the main job from end to end on real parts: upload, train, watch, download, predict."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from cli import credentials, datasets, models, progress
from cli.credentials import Credentials
from cli.errors import CommandError
from cli.live import follow
from cli.output import duration, figure, size
from cli.server import Server

START_SECONDS = 300.0
"""The first start fetches the broker's jars; later ones take seconds."""


def demo(
    state: Annotated[Path, typer.Option(help="State folder of the services.")] = Path(".ravand"),
    port: Annotated[int, typer.Option(help="Port of the API; another free one is taken if it is in use.")] = 8000,
    data: Annotated[Path | None, typer.Option(help="CSV to train on; the penguins by default.")] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = "species",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 20,
) -> None:
    """Start everything, train a model on an uploaded file while you watch, predict with it, stop everything."""
    began = time.monotonic()
    data = data or Path(__file__).parent.parent / "examples" / "penguins.csv"
    port = port if _is_free(port) else _free_port()
    _say(1, "Starting a Kafka broker, PostgreSQL and the services")
    log = state / "demo.log"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("wb") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--state", str(state), "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", None)
        _wait_until_ready(server, up, log)
        typer.echo(f"    ready at {server.url} after {duration(time.monotonic() - began)}")
        figures = _main_job(server, data, target, epochs, state)
    finally:
        up.terminate()
        status = up.wait(60)
    if status != 0:
        raise CommandError(f"The services ended with status {status}.", f"{log} says why.")
    typer.echo("")
    for name, value in figures.items():
        typer.echo(f"    {name:<12} {value}")
    typer.echo(f"    {'in all':<12} {duration(time.monotonic() - began)}\n")
    typer.echo("Everything was stopped and nothing was lost. To go on by hand:\n")
    typer.echo(f"    .venv/bin/ravand up --state {state} --port {port}       # the same services, kept running")
    typer.echo("    .venv/bin/ravand train penguins.csv --target island   # in another terminal: you are logged in")
    typer.echo("    .venv/bin/ravand jobs                                 # and --help everywhere\n")


def _main_job(server: Server, data: Path, target: str, epochs: int, state: Path) -> dict[str, str]:
    email, password = f"demo-{secrets.token_hex(4)}@example.org", secrets.token_urlsafe(18)
    _say(2, f"Registering {email}")
    account = server.post("/api/auth/register", {"email": email, "password": password, "name": "Demo"})
    kept = credentials.load()
    if kept is None or kept.email.startswith("demo-"):  # A login that somebody made by hand stays.
        credentials.save(Credentials(server.url, account["token"], email))
    server = Server(server.url, account["token"])

    _say(3, f"Uploading {data.name}")
    dataset = datasets.send(server, data)
    missing = sum(column["missing"] for column in dataset["columns"])
    typer.echo(
        f"    {dataset['rows']} rows, {len(dataset['columns'])} columns, {missing} missing values, id {dataset['id']}"
    )

    _say(4, f"Training a model of `{target}` for {epochs} epochs, each one as it arrives from the log")
    asked = time.monotonic()
    job = server.post(
        "/api/train",
        {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": target, "epochs": epochs}},
    )
    progress.show(follow(server, job["job_id"]))
    took = time.monotonic() - asked
    ended = server.get("/api/train/status", job_id=job["job_id"])
    if ended["status"] != "completed":
        raise CommandError(f"The job ended as {ended['status']}: {ended['message']}", str(ended.get("error") or ""))

    model = ended["model"]
    _say(5, f"Downloading the registered model {model['name']}, version {model['number']}")
    file = state / f"{Path(model['name']).name}-{model['number']}.zip"
    written = models.save(server, model["name"], str(model["number"]), file)
    typer.echo(f"    {file} ({size(written)})")

    _say(6, "Predicting a few rows with it, without any server")
    _predict(file, data, target)
    return {
        "job": job["job_id"],
        "epochs": str(ended["epoch"]),
        **{
            name: figure(value)
            for name, value in ended["metrics"].items()
            if name in ("loss", "val_loss", "accuracy", "val_accuracy")
        },
        "training": f"{took:.2f} s from the request to the registered model",
    }


def _predict(model: Path, data: Path, target: str) -> None:
    import csv

    from recipes.predict import predict

    with data.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    predicted = predict(model, data).to_dicts()
    right = sum(str(p["prediction"]) == row.get(target) for row, p in zip(rows, predicted, strict=True))
    for index in range(0, len(rows), max(1, len(rows) // 5)):
        typer.echo(
            f"    row {index + 1:>4}: {predicted[index]['prediction']!s:<12} (in the file: {rows[index].get(target)})"
        )
    typer.echo(f"    {right} of {len(rows)} as in the file (it learned from most of them)")


def _wait_until_ready(server: Server, up: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    told = time.monotonic()
    while time.monotonic() < until:
        if up.poll() is not None:
            lines = log.read_text(errors="replace").splitlines()[-15:]
            raise CommandError("The services did not start:\n  " + "\n  ".join(lines), f"All of it is in {log}.")
        try:
            if server.http.get("/api/health/ready", timeout=2.0).is_success:
                return
        except httpx2.TransportError:
            pass
        if time.monotonic() - told > 10:
            told = time.monotonic()
            typer.echo("    still starting (the first time fetches the broker)")
        time.sleep(0.1)
    raise CommandError(f"The services were not ready after {duration(START_SECONDS)}.", f"{log} says why.")


def _say(step: int, what: str) -> None:
    typer.secho(f"\n{step}  {what}", bold=True)
    sys.stdout.flush()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
