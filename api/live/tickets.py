"""Single-use passes to the socket: browsers cannot send a token with a WebSocket, and a token in a URL would be logged.

A ticket lives half a minute and opens one socket of the session that asked for it, at any process: the table holds its hash.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import asyncpg

LIFETIME_SECONDS = 30
_LENGTH = 43
"""Characters of 32 bytes in URL-safe base64."""

_ISSUE = """
WITH expired AS (DELETE FROM accounts.tickets WHERE expires_at < now())
INSERT INTO accounts.tickets (hash, session_id, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
"""
_REDEEM = """
WITH ticket AS (DELETE FROM accounts.tickets WHERE hash = $1 RETURNING session_id, expires_at)
SELECT session.id, session.user_id, session.workspace_id, extract(epoch FROM session.expires_at)::float8 AS expires_at
FROM ticket JOIN accounts.sessions session ON session.id = ticket.session_id
JOIN accounts.users member ON member.id = session.user_id
WHERE ticket.expires_at > now() AND session.expires_at > now() AND session.ended_at IS NULL
  AND member.disabled_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose socket it is. `expires_at` is when the session's token dies, in seconds since 1970."""

    user: str
    workspace: str
    session: str
    expires_at: float


class Tickets:
    """Issues and redeems. Raises what asyncpg raises."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def issue(self, session: str) -> str:
        """A new ticket for the session."""
        ticket = secrets.token_urlsafe(32)
        await self._pool.execute(_ISSUE, _hash(ticket), session, float(LIFETIME_SECONDS))
        return ticket

    async def redeem(self, ticket: str) -> Holder | None:
        """Who holds it; None if it was never issued, was used, is too old, or its session is over."""
        if len(ticket) != _LENGTH:
            return None
        row = await self._pool.fetchrow(_REDEEM, _hash(ticket))
        return Holder(row["user_id"], row["workspace_id"], row["id"], row["expires_at"]) if row else None


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="replace")).digest()
