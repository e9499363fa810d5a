"""Workers and supervisors as processes of their own, on the real broker, with one workspace to ask for jobs in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from uuid_utils import uuid7

from adapters import kafka
from adapters.kafka import topic_name
from adapters.object_store import ObjectStore
from adapters.settings import Settings, StoreSettings, WorkerSettings
from domain.events import (
    DatasetRef,
    DatasetRegistered,
    Event,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobStopRequested,
    ObjectRef,
)
from schemas import envelope
from schemas.topics import EVENTS
from tests.servers import kafka_settings_of

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
LEASE = 3.0


class Service:
    """One process of the platform."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], hours_off: int = 0) -> None:
        program = ("tests.workers.wrong_clock", str(hours_off)) if hours_off else ("cli",)
        self.log = folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program, name],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**environment},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """Its log."""
        return self.log.read_text()

    @property
    def worker_id(self) -> str:
        """The id that it gave itself."""
        found = re.search(r"worker-[0-9a-f-]{36}", self.said)
        assert found is not None, self.said
        return found[0]

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)

    async def until_says(self, text: str, seconds: float = 60) -> None:
        """Wait for a line."""
        async with asyncio.timeout(seconds):
            while text not in self.said:
                assert self.process.poll() is None, self.said
                await asyncio.sleep(0.02)

    async def until_ended(self, seconds: float = 30) -> int:
        """Its exit status."""
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(self.process.wait)

    def children(self) -> list[int]:
        """The processes that it has started, and those that they have."""
        import psutil

        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        return []


class Installation:
    """Topics of its own, a store of its own, one workspace."""

    def __init__(self, folder: Path, kafka_settings: Mapping[str, str], prefix: str) -> None:
        self.folder = folder
        self.workspace = str(uuid7())
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAVAND_")},
            **kafka_settings,
            "RAVAND_KAFKA__PREFIX": prefix,
            "RAVAND_STORE__URL": (folder / "objects").as_uri(),
            "RAVAND_WORKER__LEASE_SECONDS": str(LEASE),
            "RAVAND_WORKER__GRACE_SECONDS": "2",
            "RAVAND_STATE": str(folder),
            "RAVAND_LOG_LEVEL": "debug",
            "PYTHONPATH": f"{PLUGIN}:{ROOT}",
        }
        self.settings = Settings(
            kafka=kafka_settings_of(kafka_settings, prefix),
            store=StoreSettings(url=self.environment["RAVAND_STORE__URL"]),
            worker=WorkerSettings(lease_seconds=LEASE),
        )
        self.store = ObjectStore(self.settings.store.url)
        self.services: list[Service] = []
        self.dataset: DatasetRef | None = None
        self._producer: Any = None
        (folder / "run").mkdir()

    async def open(self) -> None:
        """Make the store and connect."""
        await self.store.init()
        self._producer = kafka.producer(self.settings.kafka)
        await self._producer.start()

    async def close(self) -> None:
        """End every process, hard."""
        for service in self.services:
            with suppress(ProcessLookupError):
                os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
        if self._producer is not None:
            async with asyncio.timeout(10):
                await self._producer.stop()
        await self.store.close()

    def start(self, name: str, *, hours_off: int = 0, **changes: str) -> Service:
        """Another process; `changes` are settings, `hours_off` is how wrong its clock is."""
        service = Service(name, self.folder, {**self.environment, **changes}, hours_off)
        self.services.append(service)
        return service

    async def append(self, event: Event, subject: str, *, id: str | None = None, actor: str = "user-1") -> str:
        """Put a record into the log; its event id."""
        record = envelope.record(
            event,
            id=id or str(uuid7()),
            source="test",
            subject=subject,
            time="2026-01-01T00:00:00Z",
            workspace=self.workspace,
            actor=actor,
        )
        assert self._producer is not None
        await self._producer.send_and_wait(
            topic_name(self.settings.kafka, EVENTS),
            envelope.encode(record),
            key=self.workspace.encode(),
            headers=envelope.headers(record),
        )
        return record.id

    async def add_dataset(self, data: bytes) -> DatasetRef:
        """Store and register a CSV file."""
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"datasets/{sha256}.csv"
        await self.store.put(key, data)
        id = str(uuid7())
        profile = ObjectRef(uri=key, sha256=sha256)
        event = DatasetRegistered(
            name="data", uri=key, sha256=sha256, format="csv", bytes=len(data), rows=1, profile=profile
        )
        await self.append(event, id, id=id)
        self.dataset = DatasetRef(id=id, uri=key, sha256=sha256, format="csv")
        return self.dataset

    async def request(self, parameters: Mapping[str, Any], *, recipe: str = "misbehaving", **changes: Any) -> str:
        """Ask for a job; its id."""
        dataset = self.dataset or await self.add_dataset(b"x,y\n1,2\n")
        id = str(uuid7())
        event = JobRequested(
            name="job",
            recipe=recipe,
            recipe_version=1,
            parameters=parameters,
            epochs=parameters["epochs"],
            dataset=dataset,
            model="model",
            max_losses=changes.pop("max_losses", 3),
            **changes,
        )
        return await self.append(event, id, id=id)

    def move_to(self, workspace: str) -> None:
        """What is appended from now on is another workspace's."""
        self.workspace, self.dataset = workspace, None

    async def stop(self, job_id: str) -> None:
        """Ask for its end."""
        await self.append(JobStopRequested(), job_id)

    async def pause(self, job_id: str) -> None:
        """Ask for a rest."""
        await self.append(JobPauseRequested(), job_id)

    async def resume(self, job_id: str) -> None:
        """Go on."""
        await self.append(JobResumed(), job_id)

    def permits(self, last_epoch: int, name: str = "permits") -> str:
        """Let epochs begin, up to this one; the file to name in the job's parameters."""
        file = self.folder / name
        unfinished = file.with_suffix(".new")
        unfinished.write_text(str(last_epoch))
        unfinished.replace(file)
        return str(file)


def tabular_csv(rows: int = 120) -> bytes:
    """A little table from which something can be learned."""
    return ("a,b,label\n" + "".join(_lines(rows))).encode()


def _lines(rows: int) -> Iterator[str]:
    for row in range(rows):
        a, b = row * 37 % 101, row * 53 % 89
        yield f"{a},{b},{'yes' if a > b else 'no'}\n"
