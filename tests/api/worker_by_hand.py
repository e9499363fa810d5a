"""A worker's records and objects, written by the test itself: what a real one would write, at the moment the test wants."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import uuid_utils

from adapters.kafka import producer, topic_name
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from domain.events import (
    AttemptStarted,
    EpochCompleted,
    Event,
    JobFailed,
    ModelRegistered,
    ObjectRef,
    StoredFile,
)
from schemas import envelope
from schemas.topics import EVENTS
from tests.api.platform import Member, eventually

WORKER = "worker-by-hand"


async def put(store: ObjectStore, key: str, data: bytes) -> StoredFile:
    await store.put(key, data)
    name = key.rpartition("/")[2]
    return StoredFile(name=name, uri=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


class WorkerByHand:
    """Appends to one workspace's log."""

    def __init__(self, settings: Settings, workspace: str) -> None:
        self._settings = settings
        self._workspace = workspace

    async def say(self, job: str, *events: Event) -> None:
        sender = producer(self._settings.kafka)
        await sender.start()
        try:
            for event in events:
                record = envelope.record(
                    event,
                    id=str(uuid_utils.uuid7()),
                    source="urn:ravand:worker",
                    subject=job,
                    time="2026-01-01T00:00:00Z",
                    workspace=self._workspace,
                    actor=WORKER,
                )
                topic = topic_name(self._settings.kafka, EVENTS)
                await sender.send_and_wait(
                    topic, envelope.encode(record), key=self._workspace.encode(), headers=envelope.headers(record)
                )
        finally:
            await sender.stop()

    async def train(self, job: str, epochs: int, attempt: int = 1) -> None:
        await self.say(
            job,
            AttemptStarted(attempt=attempt, worker=WORKER),
            *(
                EpochCompleted(
                    attempt=attempt,
                    worker=WORKER,
                    epoch=epoch,
                    metrics={"loss": 1 / epoch, "accuracy": 0.5},
                    seconds=0.1,
                )
                for epoch in range(1, epochs + 1)
            ),
        )

    async def register(self, job: str, epochs: int, model: str, weights: bytes, attempt: int = 1) -> None:
        store = ObjectStore(self._settings.store.url)
        manifest = json.dumps({"recipe": "tabular"}).encode()
        files = (
            await put(store, f"models/{job}/{attempt}/manifest.json", manifest),
            await put(store, f"models/{job}/{attempt}/model.safetensors", weights),
        )
        await store.close()
        await self.say(
            job,
            ModelRegistered(
                attempt=attempt,
                worker=WORKER,
                last_epoch=epochs,
                model=model,
                files=files,
                metrics={"loss": 1 / epochs, "accuracy": 0.5},
            ),
        )

    async def fail(self, job: str, text: str, attempt: int = 1) -> None:
        store = ObjectStore(self._settings.store.url)
        file = await put(store, f"jobs/{job}/{attempt}/log.txt", text.encode())
        await store.close()
        log = ObjectRef(uri=file.uri, sha256=file.sha256)
        await self.say(
            job, JobFailed(attempt=attempt, worker=WORKER, code="exception", exception="ValueError", log=log)
        )


async def until(member: Member, job: str, status: str) -> dict[str, Any]:
    """The job, once it has that status."""
    found: dict[str, Any] = {}

    async def is_there() -> bool:
        answer = await member.http.get("/api/train/status", params={"job_id": job})
        found.update(answer.json())
        return bool(found.get("status") == status)

    await eventually(is_there, 20)
    return found
