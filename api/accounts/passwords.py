"""Passwords: which are taken, and how they are kept (Argon2id) without letting a flood of logins starve everything else."""

from __future__ import annotations

import asyncio
import functools
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from api.accounts.common_passwords import why_common
from api.errors import Problem

SHORTEST = 10
LONGEST = 1024
"""Longer ones are refused, never cut: two that share a beginning must not be one."""
MEMORY_KIB, PASSES, LANES = 47_104, 1, 1
"""One of the settings that OWASP's password storage sheet gives for Argon2id; about 50 ms and 46 MiB a hash."""
_WAITING = 64
"""How many hashes may wait; beyond that the answer is 429 at once, not a queue of minutes."""


def weakness(password: str, *, email: str, name: str = "") -> str | None:
    """Why the password is not taken, in a sentence, or None if it is."""
    normal = normalised(password)
    if len(normal) < SHORTEST:
        return f"A password has at least {SHORTEST} characters."
    if len(password) > LONGEST or len(normal) > LONGEST:
        return f"A password has at most {LONGEST} characters."
    if "\0" in normal:
        return "A password has no NUL character."
    return why_common(normal, email=email, name=name)


def normalised(password: str) -> str:
    """One form for what looks the same on every keyboard (NIST SP 800-63B: NFKC before hashing)."""
    return unicodedata.normalize("NFKC", password)


# Nobody's password: what is checked when an address is unknown, so that the time does not tell. Same cost as the others.
_NOBODYS = "$argon2id$v=19$m=47104,t=1,p=1$hb44qv/f3zZlLhtAB5OwfA$dUhSNlI3yhWL3MbiptdoTWL6tlIW24ntkDlwXxy9+SY"
T = TypeVar("T")


class Hasher:
    """Hashes and checks in threads of its own, few at a time: each takes a core and 46 MiB while it runs."""

    def __init__(self, at_once: int | None = None) -> None:
        threads = at_once or max(1, min(2, (os.cpu_count() or 1) // 2))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._argon2 = PasswordHash((Argon2Hasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES),))
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is stored instead of the password."""
        return await self._run(functools.partial(self._argon2.hash, normalised(password)))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password belongs to the hash. Without a hash it takes as long, and is False."""
        text = normalised(password) if len(password) <= LONGEST else ""
        known = await self._run(functools.partial(self._argon2.verify, text, hashed or _NOBODYS))
        return known and hashed is not None and bool(text)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING:
            raise Problem(
                429,
                "too_many_requests",
                "Too many people log in at once. Try again shortly.",
                headers={"Retry-After": "2"},
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
