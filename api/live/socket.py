"""The two routes: a ticket for a token, and the socket for a ticket.

No HTTP middleware runs for a socket, so everything that decides who comes in stands here, before it is accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Annotated

import msgspec
import structlog
import uuid_utils
from fastapi import APIRouter, Depends, WebSocket

from adapters.settings import Settings
from api import access, routing
from api.errors import Problem, answer, of_exception, report
from api.live.connection import TOKEN_DIED, Connection
from api.live.hub import Hub
from api.live.origins import is_allowed
from api.live.ports import Sessions
from api.live.sink import EXTENSION, AsgiSink, Sink
from api.live.tickets import Holder, Tickets

MAX_SOCKETS = 1200
"""Of one user, in one process."""
MESSAGES_PER_SECOND = 50
MESSAGES_AT_ONCE = 1200
"""A client may ask for this much at a stroke, a full set of subscriptions; then it is read more slowly."""

_log = structlog.get_logger("api.live")


class TicketAnswer(msgspec.Struct, frozen=True):
    """A pass to the socket, good for one use within half a minute."""

    ticket: str


class Sockets:
    """Lets clients in, and out again when their token dies."""

    def __init__(self, settings: Settings, tickets: Tickets, sessions: Sessions, hub: Hub) -> None:
        self._settings = settings
        self._tickets = tickets
        self._sessions = sessions
        self._hub = hub
        self._open: dict[str, set[Connection]] = {}
        self._of_user: Counter[str] = Counter()
        sessions.on_end(self.session_ended)

    def __len__(self) -> int:
        return sum(self._of_user.values())

    def session_ended(self, session: str) -> None:
        """The token is dead: its sockets are closed at once."""
        for connection in list(self._open.get(session, ())):
            connection.close(TOKEN_DIED, "the session has ended")

    def close_all(self, code: int, reason: str) -> None:
        """The server stops."""
        for connections in list(self._open.values()):
            for connection in list(connections):
                connection.close(code, reason)

    async def serve(self, websocket: WebSocket) -> None:
        """One socket, from the request to its end."""
        try:
            holder = await self._holder(websocket)
        except Exception as error:
            await _refuse(websocket, error)
            return
        self._of_user[holder.user] += 1
        try:
            await self._serve(websocket, holder)
        finally:
            self._of_user[holder.user] -= 1
            if not self._of_user[holder.user]:
                del self._of_user[holder.user]

    async def _holder(self, websocket: WebSocket) -> Holder:
        headers = websocket.headers
        origins = headers.getlist("origin")
        allowed = self._settings.auth.origins
        if len(origins) > 1 or not is_allowed(origins[0] if origins else None, headers.get("host"), allowed):
            raise Problem(403, "foreign_origin", "Pages of this origin may not open a socket.")
        holder = await self._tickets.redeem(websocket.query_params.get("ticket", ""))
        if holder is None or self._sessions.is_ended(holder.session):
            text = "The ticket is not valid: it is used once, within half a minute. Ask for another one."
            raise Problem(401, "unauthenticated", text)
        if self._of_user[holder.user] >= MAX_SOCKETS:
            raise Problem(429, "too_many_sockets", f"One user opens at most {MAX_SOCKETS} sockets.")
        return holder

    async def _serve(self, websocket: WebSocket, holder: Holder) -> None:
        await websocket.accept()
        sink: Sink | None = websocket.scope.get("extensions", {}).get(EXTENSION, {}).get("sink")
        plain = AsgiSink(websocket.send) if sink is None else None
        connection = Connection(
            sink or plain,  # type: ignore[arg-type]  # One of the two.
            self._hub,
            workspace=holder.workspace,
            session=holder.session,
            queue_bytes=self._settings.api.socket_queue_bytes,
        )
        self._open.setdefault(holder.session, set()).add(connection)
        loop = asyncio.get_running_loop()
        dies = loop.call_later(
            max(0.0, holder.expires_at - time.time()), connection.close, TOKEN_DIED, "the token has expired"
        )
        try:
            # It may have ended between the ticket and here, when nobody knew of the socket yet.
            if self._sessions.is_ended(holder.session):
                self.session_ended(holder.session)
            if plain is None:
                await _read(websocket, connection)
            else:
                await _read_until_closed(websocket, connection, plain)
        finally:
            dies.cancel()
            connection.dispose()
            connections = self._open[holder.session]
            connections.discard(connection)
            if not connections:
                del self._open[holder.session]
            if plain:
                await plain.finished()


async def _read(websocket: WebSocket, connection: Connection) -> None:
    """Take messages until the client goes; one that floods is read more slowly, which its own TCP makes it feel."""
    loop = asyncio.get_running_loop()
    credit, counted_at = float(MESSAGES_AT_ONCE), loop.time()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        now = loop.time()
        credit = min(MESSAGES_AT_ONCE, credit + (now - counted_at) * MESSAGES_PER_SECOND) - 1
        counted_at = now
        if credit < 0:
            await asyncio.sleep(1 / MESSAGES_PER_SECOND)
        if not connection.sink.closed:
            text = message.get("text")
            connection.handle(message.get("bytes") or b"" if text is None else text)


async def _read_until_closed(websocket: WebSocket, connection: Connection, sink: AsgiSink) -> None:
    """The same, where closing does not end the reading by itself."""
    reading = asyncio.create_task(_read(websocket, connection))
    sink.on_close = reading.cancel
    try:
        await asyncio.wait({reading})
    finally:
        reading.cancel()
    if not reading.cancelled():
        reading.result()


async def _refuse(websocket: WebSocket, error: Exception) -> None:
    problem, id = of_exception(error), str(uuid_utils.uuid7())
    report(error, problem, id, path=websocket.scope["path"])
    if problem.status_code < 500:
        _log.info("socket refused", id=id, code=problem.code)
    try:
        await websocket.send_denial_response(answer(problem, id))
    except RuntimeError:
        await websocket.close()  # A server without that extension answers 403 by itself.


def router(sockets: Sockets, tickets: Tickets) -> APIRouter:
    """The relay's routes, under `/api`."""
    made = routing.router()

    @made.post("/ws/ticket", tags=["live"], response_model=None)
    @access.user
    async def issue_ticket(caller: Annotated[access.Caller, Depends(access.caller_of)]) -> dict[str, str]:
        """A single-use ticket for `WS /api/ws?ticket=`, good for half a minute."""
        return {"ticket": await tickets.issue(caller.session)}

    @made.websocket("/ws")
    @access.ticket
    async def socket(websocket: WebSocket) -> None:
        await sockets.serve(websocket)

    return made
