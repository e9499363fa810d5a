"""How often a password may be guessed: a moving window for each address, shared by all processes.

Logins for one address take turns within a process, so guesses made side by side are counted like others, and ten right
passwords at once are no attack. Addresses that belong to nobody are throttled alike, or the throttle would tell which do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from api.accounts import emails
from api.errors import Problem

WINDOW_SECONDS = 60
_QUEUE = 32
"""How many logins for one address may wait for their turn."""


class Throttle:
    """Counts failed logins."""

    def __init__(self, pool: asyncpg.Pool, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self._turns: dict[bytes, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, email: str) -> AsyncIterator[None]:
        """Hold the address while its password is looked at. Raises 429 when its window is full."""
        key = emails.fingerprint(email)
        lock, waiting = self._turns.get(key, (asyncio.Lock(), 0))
        if waiting >= _QUEUE:
            raise _too_many(1)
        self._turns[key] = (lock, waiting + 1)
        try:
            async with lock:
                await self._check(key)
                yield
        finally:
            lock, waiting = self._turns[key]
            if waiting > 1:
                self._turns[key] = (lock, waiting - 1)
            else:
                del self._turns[key]

    async def failed(self, email: str) -> None:
        """Count a wrong password."""
        await self._pool.execute(_ADD, emails.fingerprint(email))

    async def tidy(self) -> None:
        """Drop what has left the window."""
        await self._pool.execute(_TIDY, 2 * WINDOW_SECONDS)

    async def _check(self, key: bytes) -> None:
        found = await self._pool.fetchrow(_COUNT, key, WINDOW_SECONDS, self._limit)
        if found["failures"] >= self._limit:
            raise _too_many(max(1, math.ceil(found["wait"])))


def _too_many(wait: int) -> Problem:
    return Problem(
        429,
        "too_many_attempts",
        f"Too many failed logins for this address. Try again in {wait} seconds.",
        headers={"Retry-After": str(wait)},
    )


# The window is full until the oldest of its newest `limit` failures leaves it.
_COUNT = """
SELECT count(*) AS failures, coalesce(extract(epoch FROM min(at) - now()) + $2, 0)::float8 AS wait
FROM (
    SELECT at FROM accounts.login_failures
    WHERE email_hash = $1 AND at > now() - make_interval(secs => $2)
    ORDER BY at DESC LIMIT $3) AS newest
"""
_ADD = "INSERT INTO accounts.login_failures (email_hash) VALUES ($1)"
_TIDY = "DELETE FROM accounts.login_failures WHERE at < now() - make_interval(secs => $1)"
