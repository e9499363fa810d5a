"""People who use the platform during the storm, and remember what they asked for and what they were told."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2

from checker.history import Call, Read

NAMESPACE = uuid.UUID("5f0c7c1e-63b5-5d0a-9b53-8d6f0a1e7f11")
"""Of the ids of requests with an Idempotency-Key."""
CLIENT_SECONDS = 12.0
EVENTS = {
    "datasets.register": "DatasetRegistered",
    "train": "JobRequested",
    "stop": "JobStopRequested",
    "pause": "JobPauseRequested",
    "resume": "JobResumed",
    "retry": "JobRetried",
    "priority": "PriorityChanged",
}
Outcome = Literal["ok", "fail", "unknown"]


@dataclass
class Notes:
    """Everything that clients saw, shared by all of them."""

    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    canaries: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """Bodies of errors."""
    resyncs: int = 0


@dataclass(frozen=True)
class Asked:
    """A request that can be made again, word by word."""

    operation: str
    key: str
    body: dict[str, Any]


class User:
    """One user with one session."""

    def __init__(self, url: str, name: str, rng: random.Random, notes: Notes) -> None:
        self.name = name
        self.rng = rng
        self.notes = notes
        self.http = httpx2.AsyncClient(base_url=url, timeout=httpx2.Timeout(CLIENT_SECONDS, connect=2.0))
        self.id = self.workspace = self.token = ""
        self.asked: list[Asked] = []
        self.version = 0
        """The newest version that an answer carried."""

    async def register(self) -> None:
        """Make the account. Its password and its token are canaries: they must be nowhere afterwards."""
        password = f"canary-{self.rng.randbytes(12).hex()}"
        body = {
            "email": f"{self.name}-{self.rng.randbytes(4).hex()}@example.org",
            "password": password,
            "name": "Storm",
        }
        answer = (await self.http.post("/api/auth/register", json=body)).raise_for_status().json()
        self.token = answer["token"]
        payload = self.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.id, self.workspace = claims["sub"], claims["ws"]
        self.http.headers["Authorization"] = f"Bearer {self.token}"
        self.notes.canaries += [password.encode(), self.token.encode()]

    async def upload(self, file: Path, name: str) -> Call:
        """A dataset version."""
        return await self.ask("datasets.register", {"path": str(file), "name": name})

    async def ask(self, operation: str, body: dict[str, Any], key: str | None = None) -> Call:
        """Propose something, once, and note what came of it."""
        asked = Asked(operation, key or self.rng.randbytes(8).hex(), body)
        if key is None:
            self.asked.append(asked)
        return await self.send(asked)

    async def send(self, asked: Asked) -> Call:
        """Send a request; the outcome is what its answer lets the client know of this one sending."""
        named = json.dumps([self.workspace, self.id, asked.operation, asked.key], separators=(",", ":"))
        began = time.time()
        outcome, status, code, answer = await self._answer(asked)
        call = Call(
            operation=EVENTS[asked.operation],
            actor=self.id,
            workspace=self.workspace,
            outcome=outcome,
            event_id=str(uuid.uuid5(NAMESPACE, named)),
            key=asked.key,
            code=code,
            answer=answer,
            status=status,
            began=began,
            ended=time.time(),
        )
        self.notes.calls.append(call)
        return call

    async def _answer(self, asked: Asked) -> tuple[Outcome, int, str | None, dict[str, Any]]:
        headers = {"Idempotency-Key": asked.key}
        try:
            if asked.operation == "datasets.register":
                content = await asyncio.to_thread(Path(asked.body["path"]).read_bytes)
                files = {"file": ("penguins.csv", content, "text/csv")}
                form = {"name": asked.body["name"]}
                response = await self.http.post("/api/datasets", files=files, data=form, headers=headers)
            else:
                path = "/api/train" if asked.operation == "train" else f"/api/train/{asked.operation}"
                response = await self.http.post(path, json=asked.body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            return "fail", 0, "not_sent", {}
        except httpx2.TransportError as error:
            return "unknown", 0, type(error).__name__, {}
        return self._read(response)

    def _read(self, response: httpx2.Response) -> tuple[Outcome, int, str | None, dict[str, Any]]:
        try:
            document = response.json()
        except ValueError:
            document = {}
        if response.is_success:
            self.version = max(self.version, int(response.headers.get("Ravand-Version") or 0))
            kept = ("job_id", "status", "version", "verdict", "id")
            return "ok", response.status_code, None, {name: document[name] for name in kept if name in document}
        self.notes.bodies.append(response.content)
        code = document.get("code")
        if response.status_code >= 500 and code not in (
            "log_unavailable",
            "read_model_unavailable",
            "store_unavailable",
            "readers_unavailable",
            "storage_full",
        ):
            return "unknown", response.status_code, code, {}
        # These say that nothing was changed, and are held to it.
        return "fail", response.status_code, code, {}

    async def look(self) -> list[dict[str, Any]] | None:
        """The workspace's jobs, never older than what this session has seen; None if there is no answer."""
        asked = self.version
        try:
            response = await self.http.get("/api/train/jobs", params={"limit": 100, "after": asked})
        except httpx2.TransportError:
            return None
        if not response.is_success:
            self.notes.bodies.append(response.content)
            self.notes.reads.append(Read(self.id, self.workspace, asked, None, response.status_code))
            return None
        version = int(response.headers["Ravand-Version"])
        self.notes.reads.append(Read(self.id, self.workspace, asked, version, response.status_code))
        self.version = max(self.version, version)
        jobs: list[dict[str, Any]] = response.json()
        return jobs


class Pulse:
    """One cheap write twice a second, whatever happened to the one before: tells when the platform answers again."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.job_id = ""
        self.answered: list[tuple[float, float]] = []
        """Beginning and end of each write that was answered as done."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def beat(self) -> None:
        """For ever; cancel it to end."""
        while True:
            if len(self._tasks) < 16:
                task = asyncio.create_task(self._once())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.5)

    async def _once(self) -> None:
        call = await self.user.ask("priority", {"job_id": self.job_id, "priority": self.user.rng.randint(-1000, 0)})
        if call.outcome == "ok" and "verdict" not in call.answer:
            self.answered.append((call.began, call.ended))

    async def finish(self) -> None:
        """Wait for those under way."""
        await asyncio.gather(*self._tasks)

    async def after(self, moment: float, seconds: float) -> bool:
        """Wait until a write that began after `moment` was answered; whether one was in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if any(began >= moment for began, _ in self.answered[-50:]):
                return True
            await asyncio.sleep(0.05)
        return False
