"""What api, projector and supervisor hold, after a load."""

from __future__ import annotations

from pathlib import Path

import psutil

from bench.figures import Figure
from bench.installation import Installation
from cli import datasets

COUNTED = ("api", "projector", "supervisor")


def measure() -> list[Figure]:
    """PSS of the three after an upload, some jobs and their epochs."""
    with Installation() as it:
        server = it.user()
        dataset = datasets.send(server, Path("examples/penguins.csv"))
        for seed in range(5):
            server.post(
                "/api/train",
                {
                    "recipe": "tabular",
                    "dataset_id": dataset["id"],
                    "parameters": {"target": "species", "epochs": 30, "seed": seed},
                },
            )
        for job in server.get("/api/train/jobs"):
            _until_over(server, job["job_id"])
        held = {}
        for row in it.processes():
            if row["service"] in COUNTED:
                process = psutil.Process(row["pid"])
                members = [process, *process.children(recursive=True)]
                held[row["service"]] = sum(member.memory_full_info().pss for member in members) / 1e6
    total = sum(held.values())
    parts = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in held.items())
    return [Figure("api + projector + supervisor, PSS", total, "MB", "≤ 200", total <= 200, parts)]


def _until_over(server: object, job_id: str) -> None:
    from cli.live import follow
    from cli.server import Server

    assert isinstance(server, Server)
    for _ in follow(server, job_id):
        pass
