"""Commands about jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli import train
from cli.output import figure, local_time, print_json, print_table
from cli.progress import metrics_line
from cli.server import Server

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="Id of the job.")]


def jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    json: Json = False,
) -> None:
    """The newest jobs."""
    found = Server.of_user().get("/api/train/jobs", status=status, limit=limit)
    if json:
        print_json(found)
        return
    print_table(
        ("id", "name", "status", "progress", "epoch", "loss", "model"),
        (
            (
                j["job_id"],
                j.get("name"),
                j["status"],
                f"{j['progress']:.0f} %",
                f"{j['epoch']}/{j['epochs']}",
                figure(j.get("loss")),
                f"{j['model']['name']} v{j['model']['number']}" if j.get("model") else "",
            )
            for j in found
        ),
        empty="No jobs yet. Start one with `ravand train DATASET --target COLUMN`.",
    )


def job(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it rests.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Every epoch with its metrics.")] = False,
    events: Annotated[bool, typer.Option("--events", help="Every record of it, refused ones included.")] = False,
    json: Json = False,
) -> None:
    """One job: where it is and why, its epochs, its records."""
    server = Server.of_user()
    if follow:
        train.watch(server, job_id, json=json)
    elif history:
        _history(server.get(f"/api/train/{job_id}/history"), json)
    elif events:
        _events(server.get(f"/api/train/{job_id}/events"), json)
    else:
        found = server.get("/api/train/status", job_id=job_id)
        print_json(found) if json else _show(found)


def stop(job_id: JobId, json: Json = False) -> None:
    """Stop a job; its worker saves a checkpoint first."""
    _ask("stop", {"job_id": job_id}, json)


def pause(job_id: JobId, json: Json = False) -> None:
    """Let a job rest; `ravand resume` goes on where it was."""
    _ask("pause", {"job_id": job_id}, json)


def resume(job_id: JobId, json: Json = False) -> None:
    """Go on with a paused job."""
    _ask("resume", {"job_id": job_id}, json)


def retry(
    job_id: JobId,
    fresh: Annotated[bool, typer.Option("--fresh", help="From the beginning, without its checkpoints.")] = False,
    json: Json = False,
) -> None:
    """Queue a failed or stopped job again."""
    _ask("retry", {"job_id": job_id, "fresh": fresh}, json)


def priority(
    job_id: JobId, value: Annotated[int, typer.Argument(help="Higher goes first.")], json: Json = False
) -> None:
    """Move a job in the queue."""
    _ask("priority", {"job_id": job_id, "priority": value}, json)


def _ask(action: str, body: dict[str, Any], json: bool) -> None:
    answer = Server.of_user().post(f"/api/train/{action}", body)
    print_json(answer) if json else typer.echo(f"{answer['status']}: {answer['message']}")


def _show(job: dict[str, Any]) -> None:
    typer.secho(f"{job.get('name') or job['job_id']}: {job['status']}", bold=True)
    train.summarise(job)
    rows = [
        ("id", job["job_id"]),
        ("progress", f"{job['progress']:.1f} %, epoch {job['epoch']} of {job['epochs']}"),
        ("attempt", job["attempt"]),
        ("recipe", job.get("recipe")),
        ("dataset", job.get("dataset_id")),
        ("requested", local_time(job["created_at"])),
        ("version", job["version"]),
    ]
    print_table(("", ""), [row for row in rows if row[1] not in (None, "")], empty="")


def _history(epochs: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(epochs)
        return
    print_table(
        ("epoch", "attempt", "time", "metrics"),
        ((e["epoch"], e["attempt"], local_time(e["time"]), metrics_line(e["metrics"])) for e in epochs),
        empty="No epoch is done yet.",
    )


def _events(records: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(records)
        return
    print_table(
        ("version", "time", "event", "verdict", "actor"),
        (
            (
                r.get("version"),
                local_time(r["time"]),
                r["type"],
                r["verdict"] if r["verdict"] == "effective" else f"refused: {r.get('reason')}",
                r["actor"],
            )
            for r in records
        ),
        empty="No records.",
    )
