"""How long it takes until it works again after `kill -9`, the worst of twenty: `python -m bench recovery`.

For projector, broker and PostgreSQL: from the kill until a change that was asked for after it is answered with its verdict. For
a worker: until its job runs at another one. The kinds take turns, and none is killed before it has been well for so long that
`ravand up` takes its failure for the first.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil

from bench.figures import Figure, spread_of
from bench.installation import Installation
from cli import datasets
from cli.server import Server
from ops import registry
from ops.keeper import WELL_SECONDS
from ops.registry import Row
from ops.state_folder import StateFolder

TIMES = 20
LEASE_SECONDS = 3.0
_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0
_AIMS = {"projector": 3.0, "kafka": 6.0, "postgres": 5.0, "worker": LEASE_SECONDS + 5}
_NAMES = {
    "projector": "projector killed → a verdict is answered",
    "kafka": "broker killed → a verdict is answered",
    "postgres": "PostgreSQL killed → a verdict is answered",
    "worker": f"worker killed → its job runs elsewhere (lease {LEASE_SECONDS:g} s)",
}


def measure() -> list[Figure]:
    """On a whole installation with two workers, which train only while one of them is killed."""
    seconds: dict[str, list[float]] = defaultdict(list)
    since: dict[int, float] = {}
    with Installation(workers=2, environment={"RAVAND_WORKER__LEASE_SECONDS": str(LEASE_SECONDS)}) as it:
        server = it.user()
        dataset = datasets.send(server, Path("examples/penguins.csv"))["id"]
        resting = _job(server, dataset)
        server.post("/api/train/pause", {"job_id": resting})
        for _ in range(TIMES):
            for service in ("projector", "kafka", "postgres"):
                _until_well(it, service, since)
                began = _kill(it, service)
                _until(lambda: _answered(server, resting))
                seconds[service].append(time.monotonic() - began)
            _until_well(it, "worker", since)
            seconds["worker"].append(_worker(it, server, dataset))
    return [_figure(service, seconds[service]) for service in _AIMS]


def _figure(service: str, seconds: list[float]) -> Figure:
    worst, aim = max(seconds), _AIMS[service]
    return Figure(f"{_NAMES[service]}, worst", worst, "s", f"≤ {aim:g}", worst <= aim, spread_of(seconds, "s"))


def _worker(it: Installation, server: Server, dataset: str) -> float:
    """Kill the worker that trains; the seconds until the other one does."""
    job = _job(server, dataset)

    def held() -> Row | None:
        return next((row for row in _rows(it) if row.service == "trainer" and row.job == job), None)

    began = _kill(it, "worker", _until(held).index)
    _until(lambda: (shown := _status(server, job)) and shown["attempt"] > 1 and shown["status"] == "running")
    taken = time.monotonic() - began
    server.post("/api/train/stop", {"job_id": job})
    return taken


def _job(server: Server, dataset: str) -> str:
    body = {"recipe": "tabular", "dataset_id": dataset, "parameters": {"target": "species", "epochs": 100_000}}
    return str(server.post("/api/train", body)["job_id"])


def _kill(it: Installation, service: str, index: int = 0) -> float:
    """`kill -9` it; when that was."""
    [row] = [row for row in _rows(it) if (row.service, row.index) == (service, index)]
    began = time.monotonic()
    psutil.Process(row.pid).kill()
    return began


def _rows(it: Installation) -> list[Row]:
    return registry.read(StateFolder(it.state))


def _until_well(it: Installation, service: str, since: dict[int, float]) -> None:
    """Until all are well, and the processes of `service` have been for long enough; `since` notes when each was first seen."""

    def well() -> bool:
        running = [(row.service, row.pid) for row in _rows(it) if row.pid and row.state == "running"]
        now = time.monotonic()
        for _, pid in running:
            since.setdefault(pid, now)
        ours = [pid for name, pid in running if name == service]
        return _is_well(it) and all(now - since[pid] > WELL_SECONDS for pid in ours)

    _until(well)


def _is_well(it: Installation) -> bool:
    """Whether all run and nothing is left of the fault before: a worker that starts loads PyTorch for five seconds of CPU,
    beside which nothing else would start as it does alone."""
    rows = _rows(it)
    return all(row.state == "running" for row in rows) and all(
        row.pid and _has_child_waiting(row.pid) for row in rows if row.service == "worker"
    )


def _has_child_waiting(worker: int) -> bool:
    with suppress(psutil.Error):
        children = psutil.Process(worker).children(recursive=True)
        return any("training child, waiting" in " ".join(child.cmdline()) for child in children)
    return False


def _answered(server: Server, job: str) -> bool:
    """Whether a change that is asked for now is done, and its verdict told."""
    with suppress(httpx2.TransportError):
        asked = {"job_id": job, "priority": time.monotonic_ns() % 100}
        return server.http.post("/api/train/priority", json=asked, timeout=30.0).status_code == 200
    return False


def _status(server: Server, job: str) -> Any:
    with suppress(httpx2.TransportError):
        answer = server.http.get("/api/train/status", params={"job_id": job})
        return answer.json() if answer.is_success else None
    return None


def _until(look: Callable[[], Any]) -> Any:
    """What `look` finds, once it finds something."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while not (found := look()):
        if time.monotonic() > until:
            raise RuntimeError("it did not recover")
        time.sleep(_PAUSE_SECONDS)
    return found
