"""From the request to the first line of the training function, in a worker whose child is warm."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, latency_figures
from bench.installation import Installation
from cli import datasets
from cli.live import follow
from cli.server import Server

JOBS = 30
PLUGIN = Path(__file__).parent / "plugin"


def measure() -> list[Figure]:
    """A recipe whose training function's first line says what time it is; clocks of one machine are one clock."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        path = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
        with Installation(environment={"PYTHONPATH": path, "BENCH_FIRST_LINE": str(said)}) as it:
            server = it.user()
            dataset = datasets.send(server, Path("examples/penguins.csv"))
            body = {"recipe": "bench-first-line", "dataset_id": dataset["id"], "parameters": {}}
            for _ in range(3):
                _run(server, body)
            said.write_text("")
            asked = [_run(server, body) for _ in range(JOBS)]
        first_lines = [json.loads(line) for line in said.read_text().splitlines()]
    spawned = statistics.median(_cold() for _ in range(3))
    times = [1000 * (began - before) for before, began in zip(asked, first_lines, strict=True)]
    beside = f"python -c 'import torch' {spawned:.0f} ms"
    return latency_figures(
        "request → first line of the training function", times, p50=25, p99=None, beside=beside, part=spawned
    )


def _run(server: Server, body: dict[str, object]) -> float:
    """One job from asking to its end; the moment of asking."""
    _until_waiting(server)
    asked = time.time()
    job = server.post("/api/train", body)
    for _ in follow(server, job["job_id"]):
        pass
    return asked


def _until_waiting(server: Server) -> None:
    """Give the next child the time that it has between people's jobs: it is forked and warmed beside them."""
    time.sleep(2.0)


def _cold() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return 1000 * (time.perf_counter() - began)
