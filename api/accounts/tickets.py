"""Tickets: single-use passes to a socket, so that no token stands in an address."""

from __future__ import annotations

import hashlib
import secrets

import asyncpg

from api.access import Caller

SECONDS = 30
_LONGEST = 200


class Tickets:
    """Issued to a session, redeemed once, by whichever process the socket comes to."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def issue(self, caller: Caller) -> str:
        """A ticket that is good for one socket within half a minute."""
        ticket = secrets.token_urlsafe(32)
        await self._pool.execute(_ISSUE, _hash(ticket), caller.session, SECONDS)
        return ticket

    async def redeem(self, ticket: str) -> Caller | None:
        """Whose ticket it is; None for one that is unknown, used, too old, or of a session that has ended."""
        if not ticket or len(ticket) > _LONGEST:
            return None
        found = await self._pool.fetchrow(_REDEEM, _hash(ticket))
        if found is None:
            return None
        return Caller(
            user=found["user_id"],
            workspace=found["workspace_id"],
            role=found["role"],
            session=found["id"],
            expires_at=found["expires_at"].timestamp(),
        )

    async def tidy(self) -> None:
        """Drop the ones that nobody used."""
        await self._pool.execute("DELETE FROM accounts.tickets WHERE expires_at < now()")


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="replace")).digest()


_ISSUE = """
INSERT INTO accounts.tickets (hash, session_id, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
"""
_REDEEM = """
WITH used AS (DELETE FROM accounts.tickets WHERE hash = $1 RETURNING session_id, expires_at)
SELECT s.id, s.user_id, s.workspace_id, s.expires_at, u.role
FROM used
JOIN accounts.sessions s ON s.id = used.session_id AND s.ended_at IS NULL AND s.expires_at > now()
JOIN accounts.users u ON u.id = s.user_id AND u.disabled_at IS NULL
JOIN accounts.memberships m ON m.user_id = s.user_id AND m.workspace_id = s.workspace_id
WHERE used.expires_at > now()
"""
