"""Sockets that write down every message, and resume where they were cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from checker.history import Frame
from storm.clients import User


class Follower:
    """One logical session: the whole workspace of a user, or one job of it."""

    def __init__(self, user: User, name: str, job_id: str | None) -> None:
        self.user = user
        self.name = name
        self.job_id = job_id
        self.last = 0
        self.frames: list[Frame] = []
        self.seen: list[tuple[float, str, str, int, str]] = []
        """When, of which job, which event, of which attempt, its status then."""
        self._log: str | None = None
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """For ever; cancel it to end."""
        while True:
            with contextlib.suppress(WebSocketException, OSError, httpx2.TransportError, TimeoutError, _Refused):
                await self._connection()
            await asyncio.sleep(self.user.rng.uniform(0.05, 0.4))

    def cut(self) -> None:
        """Drop the connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    def end(self) -> None:
        """Everything has come to rest: what was not told until now is missing."""
        self._note({"type": "end"})

    def _note(self, message: dict[str, Any]) -> None:
        workspace = "" if self.job_id else self.user.workspace
        self.frames.append(Frame(self.name, self.job_id or "", message, workspace))

    async def _connection(self) -> None:
        answer = await self.user.http.post("/api/ws/ticket")
        if not answer.is_success:
            raise _Refused
        url = str(self.user.http.base_url).replace("http", "ws", 1).rstrip("/")
        async with connect(
            f"{url}/api/ws?ticket={answer.json()['ticket']}",
            compression=None,
            proxy=None,
            open_timeout=5,
            close_timeout=1,
        ) as socket:
            self._socket = socket
            request: dict[str, Any] = {"type": "subscribe_jobs", "since": self.last}
            if self.job_id:
                request |= {"type": "subscribe_job", "job_id": self.job_id}
            if self._log:
                request["log"] = self._log
            await socket.send(json.dumps(request))
            self._note({"type": "asked", "since": self.last})
            async for text in socket:
                self._hear(json.loads(text))

    def _hear(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribed" | "subscribed_jobs":
                self._log = message["log"]
                self._note({"type": "subscribed", "version": message["version"]})
            case "job_update":
                self.last = message["version"]
                self.seen.append(
                    (time.time(), message["job_id"], message["event"], message["attempt"], message["status"])
                )
                kept = ("type", "job_id", "version", "previous", "event", "status", "epoch", "attempt")
                self._note({name: message[name] for name in kept})
            case "resync":
                self.last, self._log = 0, None
                self.user.notes.resyncs += 1
                self._note(message)
                raise _Refused
            case "error":
                raise _Refused


class Followers:
    """All of them."""

    def __init__(self) -> None:
        self.all: list[Follower] = []
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, user: User, job_id: str | None = None) -> Follower:
        """Watch a job, or all of the user's workspace, from the beginning."""
        follower = Follower(user, f"{user.name}-{len(self.all)}", job_id)
        self.all.append(follower)
        self._tasks.append(asyncio.create_task(follower.run()))
        return follower

    def cut(self, rng: random.Random) -> int:
        """Cut about half of the connections; how many."""
        chosen = [follower for follower in self.all if rng.random() < 0.5]
        for follower in chosen:
            follower.cut()
        return len(chosen)

    async def until(self, versions: dict[tuple[str, str], int], seconds: float) -> None:
        """Wait until each has been told the last version of what it watches, at most so long; then note the end.

        `versions` are those of every (workspace, job).
        """
        until = time.monotonic() + seconds
        # The sockets are listened to elsewhere on this loop; a look now and then is enough.
        while time.monotonic() < until and any(  # noqa: ASYNC110
            follower.last < _target(follower, versions) for follower in self.all
        ):
            await asyncio.sleep(0.05)
        for follower in self.all:
            follower.end()

    async def stop(self) -> None:
        """Close them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _target(follower: Follower, versions: dict[tuple[str, str], int]) -> int:
    workspace = follower.user.workspace
    wanted = [v for (ws, job), v in versions.items() if ws == workspace and follower.job_id in (None, job)]
    return max(wanted, default=0)


class _Refused(Exception):
    """Try again in a moment."""
