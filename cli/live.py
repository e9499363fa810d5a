"""Follows a job over the WebSocket: every effective event of it, in order, once, whatever happens to the connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from cli.errors import CommandError
from cli.server import NoServer, Server, Unanswered

RESTING = frozenset({"completed", "failed", "stopped", "paused"})
"""Statuses in which nothing more happens until somebody asks for it."""
PATIENCE_SECONDS = 60.0


class Gap(CommandError):
    """A message was missing although the stream said it was whole. Must never happen."""


def follow(server: Server, job_id: str, *, since: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `subscribed`, `job_update` and `metrics` messages until the job rests.

    Reconnects by itself and asks for what it missed; proves by `previous` that nothing is missing. Raises `CommandError`
    when the job is unknown or the server stays away for a minute.
    """
    last, log, known, pause, lost_at = since, None, 0, 0.2, 0.0
    while True:
        connected_at = time.monotonic()
        try:
            for message in _connection(server, job_id, last, log):
                match message["type"]:
                    case "subscribed":
                        log, known = message["log"], message["job"]["version"]
                    case "job_update":
                        if message["version"] <= last:
                            continue
                        if last and message["previous"] not in (last, 0) and message["previous"] > last:
                            raise Gap(
                                f"Events between {last} and {message['previous']} are missing.", "Please report this."
                            )
                        last = message["version"]
                        # Only news count as being connected: a server that drops every client at once is away too.
                        lost_at, pause = 0.0, 0.2
                    case "resync":
                        # Another history (a restored backup), or one that is gone: start over from its beginning.
                        last, log = 0, None
                    case "error":
                        raise CommandError(
                            f"The server refused: {message['code']}.", "`ravand jobs` shows what there is."
                        )
                yield message
                # What is being caught up on may hold an end that a retry left again: only the newest state rests.
                state = message["job"] if message["type"] == "subscribed" else message
                if state.get("status") in RESTING and last >= known:
                    return
                if message["type"] == "resync":
                    break
        except (ConnectionClosed, InvalidStatus, WebSocketException, OSError, Unanswered, NoServer) as error:
            if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code == 4401:
                raise CommandError("The session has ended.", "Log in with `ravand login`; the job goes on.") from None
            if not lost_at or time.monotonic() - connected_at > PATIENCE_SECONDS:
                lost_at = time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_SECONDS:
                raise CommandError(
                    "The connection to the server is lost; the job goes on without you watching.",
                    f"`ravand job {job_id} --follow` watches it again from here.",
                ) from None
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def _connection(server: Server, job_id: str, last: int, log: str | None) -> Iterator[dict[str, Any]]:
    ticket = server.call("POST", "/api/ws/ticket").json()["ticket"]
    url = server.url.replace("http", "ws", 1) + "/api/ws?ticket=" + ticket
    with connect(url, compression=None, proxy=None) as socket:
        request: dict[str, Any] = {"type": "subscribe_job", "job_id": job_id, "since": last}
        if log:
            request["log"] = log
        socket.send(orjson.dumps(request).decode())
        for frame in socket:
            yield orjson.loads(frame)
