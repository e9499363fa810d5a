"""CPU time of the servers beside us, found by the ports that they listen on: nothing is found where they run elsewhere."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

import psutil

from adapters.settings import Settings


def servers_cpu(settings: Settings) -> dict[str, float]:
    """CPU seconds so far of `kafka` and `postgres` with all their processes, those that have ended too."""
    database = urlsplit(settings.database.url.get_secret_value()).port or 5432
    broker = int(settings.kafka.bootstrap_servers.split(",")[0].rpartition(":")[2])
    found = {"kafka": _listening(broker), "postgres": _listening(database)}
    return {name: _seconds(process) for name, process in found.items() if process is not None}


def _listening(port: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                return psutil.Process(connection.pid)
    return None


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return float(total)
