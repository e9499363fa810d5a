"""Samples a second through the platform, beside a training loop with nothing around it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np

from bench.figures import Figure, spread_of
from bench.installation import Installation
from cli import datasets
from cli.live import follow

ROWS, COLUMNS, EPOCHS, BATCH, ROUNDS = 50_000, 32, 15, 256, 3
WARM_UP = 3


def measure() -> list[Figure]:
    """Turn by turn, so that a machine whose speed drifts is unfair to neither."""
    with tempfile.TemporaryDirectory() as folder, Installation() as it:
        file = Path(folder) / "made.csv"
        _write(file)
        server = it.user()
        dataset = datasets.send(server, file)
        body = {
            "recipe": "tabular",
            "dataset_id": dataset["id"],
            "parameters": {"target": "label", "epochs": EPOCHS, "batch_size": BATCH, "validation_fraction": 0.2},
        }
        bare, through = [], []
        for _ in range(ROUNDS):
            shown = subprocess.run(
                [sys.executable, "-m", "bench.bare_loop", str(file), str(EPOCHS), str(BATCH)],
                capture_output=True,
                check=True,
            )
            bare += json.loads(shown.stdout)[WARM_UP:]
            job = server.post("/api/train", body)
            for _ in follow(server, job["job_id"]):
                pass
            times = [
                datetime.fromisoformat(e["time"]).timestamp() for e in server.get(f"/api/train/{job['job_id']}/history")
            ]
            # From one epoch's record to the next one's: everything that the platform costs is in it.
            through += [after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)]
    samples = ROWS * 0.8
    rate, limit = samples / statistics.median(through), samples / statistics.median(bare)
    ratio = rate / limit
    beside = f"bare loop {limit:,.0f} samples/s"
    return [
        Figure(
            "training through the platform",
            ratio,
            "× the bare loop",
            "≥ 0.98",
            ratio >= 0.98,
            spread_of(through, "s an epoch"),
            beside,
            ratio,
        )
    ]


def _write(file: Path) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(ROWS, COLUMNS))
    label = (inputs[:, 0] * inputs[:, 1] + inputs[:, 2] > 0).astype(int)
    with file.open("w") as out:
        out.write(",".join([*(f"c{number}" for number in range(COLUMNS)), "label"]) + "\n")
        for row, answer in zip(inputs, label, strict=True):
            out.write(",".join(f"{value:.5f}" for value in row) + f",{answer}\n")
