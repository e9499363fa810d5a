"""Sessions: what a login begins and a logout ends, everywhere at once and without a query per request.

A session is looked up once by each process and remembered as alive; its end is announced by the database and felt at once.
While the process cannot hear announcements it remembers nothing and asks each time, and when it cannot ask it lets nobody in.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog
import uuid_utils

from adapters.postgres import is_outage
from adapters.settings import AuthSettings
from api.access import Caller
from api.accounts.tokens import Tokens
from api.errors import unauthenticated
from api.listener import Listener

log = structlog.get_logger("api")

CHANNEL = "ravand_sessions"
"""Payload: the id of a session that has ended."""
_REMEMBERED = 50_000
_MARGIN_SECONDS = 60.0
"""Transactions that were open, and clocks that differ, when hearing was lost."""


class Sessions:
    """The sessions that this process knows of."""

    def __init__(self, pool: asyncpg.Pool, listener: Listener, tokens: Tokens, settings: AuthSettings) -> None:
        self._pool = pool
        self._listener = listener
        self._tokens = tokens
        self._hours = settings.token_hours
        self._alive: OrderedDict[str, None] = OrderedDict()
        self._ended: dict[str, float] = {}
        """Sessions that ended while somebody may still have been looking them up, until this time."""
        self._tell: list[Callable[[str], None]] = []
        self._deaf_since = time.monotonic()
        self._rereading: asyncio.Task[None] | None = None
        listener.hear(CHANNEL, self.has_ended)
        listener.on_change(self._hearing_changed)

    async def caller(self, token: str) -> Caller:
        """Who holds the token. Raises 401 for a token that is not valid or whose session has ended."""
        caller = self._tokens.read(token)
        if not await self.is_alive(caller):
            raise unauthenticated("The session has ended. Log in again.", error="invalid_token")
        return caller

    async def is_alive(self, caller: Caller) -> bool:
        """Whether the session goes on. Raises what asyncpg raises when that cannot be found out."""
        session = caller.session
        if session in self._ended:
            return False
        if session in self._alive and self._listener.connected:
            return True
        generation = self._listener.generation
        found = await self._pool.fetchrow(_LIVE, session)
        stands = found is not None and (found["user_id"], found["workspace_id"], found["role"]) == (
            caller.user,
            caller.workspace,
            caller.role,
        )
        if not stands or session in self._ended:  # It may have ended while we asked.
            return False
        if self._listener.connected and self._listener.generation == generation:
            self._alive[session] = None
            if len(self._alive) > _REMEMBERED:
                self._alive.popitem(last=False)
        return True

    async def begin(self, connection: asyncpg.Connection, user: str, workspace: str, role: str) -> tuple[Caller, str]:
        """A new session, in the caller's transaction, and its token."""
        caller = Caller(
            user=user,
            workspace=workspace,
            role=role,
            session=str(uuid_utils.uuid7()),
            expires_at=float(int(time.time() + self._hours * 3600)),
        )
        expires = datetime.fromtimestamp(caller.expires_at, UTC)
        await connection.execute(
            "INSERT INTO accounts.sessions (id, user_id, workspace_id, expires_at) VALUES ($1, $2, $3, $4)",
            caller.session,
            user,
            workspace,
            expires,
        )
        return caller, self._tokens.issue(caller)

    async def end(self, session: str) -> None:
        """End a session: here before this returns, elsewhere as soon as they hear of it."""
        await self._pool.execute(_END, [session])
        self.has_ended(session)

    async def end_all_of(self, user: str) -> None:
        """End every session of a user, because what the tokens say of them has changed."""
        for ended in await self._pool.fetch(_END_OF_USER, user):
            self.has_ended(ended["id"])

    def has_ended(self, session: str) -> None:
        """Take note that a session is over, and tell who wants to know."""
        self._ended[session] = time.monotonic() + self._hours * 3600
        self._alive.pop(session, None)
        for tell in self._tell:
            tell(session)

    def is_ended(self, session_id: str) -> bool:
        """Whether this process has heard that the session is over."""
        return session_id in self._ended

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of every session that ends from now on; sockets are closed by it."""
        self._tell.append(callback)

    async def tidy(self) -> None:
        """Forget what can no longer matter: here, and the rows of what is long over."""
        now = time.monotonic()
        self._ended = {session: until for session, until in self._ended.items() if until > now}
        await self._pool.execute(_FORGET, datetime.now(UTC) - timedelta(days=30))

    def _hearing_changed(self, connected: bool) -> None:
        self._alive.clear()
        if self._rereading is not None:
            self._rereading.cancel()  # What it has not read by now, the next one reads, from the same moment on.
        if not connected:
            self._deaf_since = min(self._deaf_since, time.monotonic())
        else:
            self._rereading = asyncio.get_running_loop().create_task(self._reread())

    async def _reread(self) -> None:
        """Learn which sessions ended while nobody was listening."""
        while True:
            try:
                deaf = time.monotonic() - self._deaf_since + _MARGIN_SECONDS
                for found in await self._pool.fetch(_ENDED_LATELY, deaf):
                    if found["id"] not in self._ended:
                        self.has_ended(found["id"])
                self._deaf_since = float("inf")
                return
            except Exception as error:
                if not is_outage(error):
                    log.error("ended sessions could not be read", exc_info=error)
                await asyncio.sleep(0.5)


_LIVE = """
SELECT s.user_id, s.workspace_id, u.role
FROM accounts.sessions s
JOIN accounts.users u ON u.id = s.user_id AND u.disabled_at IS NULL
JOIN accounts.memberships m ON m.user_id = s.user_id AND m.workspace_id = s.workspace_id
WHERE s.id = $1 AND s.ended_at IS NULL AND s.expires_at > now()
"""
_ENDED_LATELY = """
SELECT id FROM accounts.sessions WHERE ended_at > now() - make_interval(secs => $1) AND expires_at > now()
"""
_END = f"""
WITH ended AS (
    UPDATE accounts.sessions SET ended_at = now() WHERE id = ANY($1::text[]) AND ended_at IS NULL RETURNING id)
SELECT pg_notify('{CHANNEL}', id) FROM ended
"""  # noqa: S608 — a constant of ours.
_END_OF_USER = f"""
WITH ended AS (UPDATE accounts.sessions SET ended_at = now() WHERE user_id = $1 AND ended_at IS NULL RETURNING id)
SELECT id, pg_notify('{CHANNEL}', id) FROM ended
"""  # noqa: S608 — a constant of ours.
_FORGET = "DELETE FROM accounts.sessions WHERE expires_at < $1"
