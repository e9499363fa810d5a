"""The installation that the storm hits: two `ravand up`, one for the servers and one for the services, joined by proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import psutil

from adapters.settings import KafkaSettings, Settings
from ops import registry
from ops.ports import free_port
from ops.processes import dies_with_parent
from ops.registry import Row
from ops.state_folder import StateFolder
from storm.proxy import Proxy
from storm.small_disks import SmallDisk, mounting

LEASE_SECONDS = 3.0
READY_SECONDS = 240.0
SETTINGS = {
    "RAVAND_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
    # Short deadlines: a storm of minutes sees more unknown outcomes and more pending verdicts.
    "RAVAND_KAFKA__APPEND_DEADLINE_SECONDS": "3",
    "RAVAND_API__VERDICT_DEADLINE_SECONDS": "2",
    "RAVAND_API__VERSION_DEADLINE_SECONDS": "2",
    # Workers die every few seconds; a job that gives up at once would soon leave nothing to disturb.
    "RAVAND_JOBS__MAX_LOSSES": "8",
}
# A storm writes up to 20 MiB a minute to the broker's disk; what is left is taken and given back while a disk is full.
KAFKA_MEBIBYTES, POSTGRES_MEBIBYTES, OBJECTS_MEBIBYTES = 128, 640, 128
MEBIBYTES_A_MINUTE = 32


class World:
    """Started and stopped once; everything else of the storm asks it for processes, addresses and settings."""

    def __init__(self, folder: Path, workers: int, brokers: int = 1, *, disks_for: float | None = None) -> None:
        """On disks of their own that last for so many minutes, if that is asked for."""
        self.folder = folder
        self.workers = workers
        self.brokers = brokers
        self.disks_for = disks_for
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.proxy = Proxy()
        """Before PostgreSQL."""
        self.kafka_proxies = [Proxy() for _ in range(brokers)]
        """Before each broker, also for the other brokers."""
        self.database_url = ""
        """Of PostgreSQL itself, past the proxy."""
        self.environment: dict[str, str] = {}
        self._ups: list[asyncio.subprocess.Process] = []

    @property
    def servers(self) -> StateFolder:
        """Kafka and PostgreSQL."""
        return StateFolder(self.folder / "servers")

    @property
    def services(self) -> StateFolder:
        """Everything else, and the objects."""
        return StateFolder(self.folder / "services")

    @property
    def disks(self) -> dict[str, SmallDisk]:
        """The small ones, by whose they are; none where there are none."""
        if self.disks_for is None:
            return {}
        more = round(MEBIBYTES_A_MINUTE * self.disks_for)
        names = ["kafka", *(f"kafka {index}" for index in range(1, self.brokers))]
        disks = {
            name: SmallDisk(self.servers.broker(index), KAFKA_MEBIBYTES + more) for index, name in enumerate(names)
        }
        disks["postgres"] = SmallDisk(self.servers.postgres, POSTGRES_MEBIBYTES + more)
        disks["objects"] = SmallDisk(self.services.objects, OBJECTS_MEBIBYTES + more)
        return disks

    def seen(self, folder: Path) -> Path:
        """A folder of the servers or services as they see it: it may lie on a disk that only they have."""
        return Path(f"/proc/{self.sees(folder)}/root{folder}")

    def sees(self, folder: Path) -> int:
        """The process that sees this folder."""
        return self._ups[1 if folder.is_relative_to(self.services.root) else 0].pid

    @property
    def kafka(self) -> KafkaSettings:
        """For the storm's own readers and writers."""
        return self.settings().kafka

    def settings(self) -> Settings:
        """As a service reads them."""
        kept = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            return Settings()
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    async def start(self) -> None:
        """Proxies, servers, services; returns when the API is ready."""
        for proxy in (self.proxy, *self.kafka_proxies):
            await proxy.start()
        advertised = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.kafka_proxies)
        options = ["--only-servers", "--brokers", str(self.brokers), "--kafka-advertised", advertised]
        await self._up("servers", options, {})
        await self._until(self._with_ports)
        await self._until(self._answering)
        given = json.loads(self.servers.environment_file.read_text())
        self.database_url = given["RAVAND_DATABASE__URL"]
        parts = urlsplit(self.database_url)
        self.proxy.target = (str(parts.hostname), int(parts.port or 5432))
        through = parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{self.proxy.port}")
        self.environment = {
            **{name: value for name, value in given.items() if name.startswith("RAVAND_KAFKA__")},
            **SETTINGS,
            "RAVAND_DATABASE__URL": urlunsplit(through),
            "RAVAND_STORE__URL": self.services.objects.as_uri(),
        }
        options = ["--port", str(self.port), "--workers", str(self.workers)]
        await self._up("services", options, self.environment)
        async with httpx2.AsyncClient() as client:

            async def ready() -> bool:
                with contextlib.suppress(httpx2.TransportError):
                    return (await client.get(f"{self.url}/api/health/ready", timeout=2.0)).is_success
                return False

            await self._until(ready)

    def keep_disks(self) -> None:
        """Copy what is on the small disks to where it would lie without them: they end with the installation."""
        for disk in self.disks.values():
            with contextlib.suppress(shutil.Error, OSError):  # What is being written may vanish under the copy.
                shutil.copytree(disk.seen_by(self.sees(disk.folder)), disk.folder, symlinks=True, dirs_exist_ok=True)

    async def stop(self) -> list[int]:
        """As an operator would; the exit statuses. Whatever is frozen is thawed before."""
        thaw(self.family(row.pid) for row in self.rows() if row.pid)
        statuses = []
        for up in reversed(self._ups):
            if up.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    up.send_signal(signal.SIGTERM)
            async with asyncio.timeout(90):
                statuses.append(await up.wait())
        for proxy in (self.proxy, *self.kafka_proxies):
            await proxy.stop()
        return statuses

    def rows(self) -> list[Row]:
        """Every process of both, training children too."""
        return [row for state in (self.servers, self.services) for row in registry.read(state)]

    def living(self, service: str) -> list[Row]:
        """Those of one service that run now, in a stable order."""
        return sorted((row for row in self.rows() if row.service == service and row.lives), key=lambda row: row.index)

    def family(self, pid: int | None) -> list[psutil.Process]:
        """A process and all its descendants."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            return [process, *process.children(recursive=True)]
        return []

    async def connect(self) -> Any:
        """A connection to PostgreSQL that no fault of the proxy touches."""
        return await asyncpg.connect(self.database_url, timeout=5)

    async def _up(self, name: str, options: list[str], environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAVAND_")}
        state = StateFolder.open(self.folder / name)
        disks = [disk for disk in self.disks.values() if disk.folder.is_relative_to(state.root)]
        for disk in disks:
            disk.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as output:
            self._ups.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "cli", "up", "--state", str(self.folder / name), *options),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**inherited, **environment},
                    preexec_fn=dies_with_parent(signal.SIGTERM, mounting(disks) if disks else None),
                )
            )

    async def _with_ports(self) -> bool:
        """Whether the brokers know where they listen, so that their proxies may know it too: before they do."""
        ports = self.servers.ports()
        if "kafka" not in ports:
            return False
        for index, proxy in enumerate(self.kafka_proxies):
            proxy.target = ("127.0.0.1", ports[f"kafka-{index}" if index else "kafka"])
        return True

    async def _answering(self) -> bool:
        rows = registry.read(self.servers)
        return len(rows) == self.brokers + 1 and all(row.state == "running" for row in rows)

    async def _until(self, condition: Any) -> None:
        until = time.monotonic() + READY_SECONDS
        while not await condition():
            if any(up.returncode is not None for up in self._ups) or time.monotonic() > until:
                raise RuntimeError(f"the installation did not start: see the logs in {self.folder}")
            await asyncio.sleep(0.1)


def thaw(families: Iterable[list[psutil.Process]]) -> None:
    """Let everything that is frozen go on."""
    for family in families:
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
