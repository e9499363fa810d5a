"""What a training child wrote last, kept for whoever wants to know why an attempt ended badly."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

import structlog
from uuid_utils import uuid7

from adapters.object_store import ObjectStore, StoreUnavailable
from domain.events import ObjectRef
from workers.child_messages import Failed, Logged
from workers.child_process import Ended
from workers.endings import Ending

LINES = 200
STORE_SECONDS = 5.0
"""The record does not wait longer for a store that is away: then it comes without the text."""


class LastWords:
    """The last lines of an attempt, and the error's own text. Never on the log: they may quote people's data."""

    def __init__(self) -> None:
        """No lines yet."""
        self._lines: deque[str] = deque(maxlen=LINES)

    def add(self, logged: Logged) -> None:
        """One more line."""
        self._lines.append(logged.text)

    def text(self, ending: Ending) -> str:
        """The whole text: lines, the error with its traceback, and how the process ended."""
        error = ending.said.text.rstrip() if isinstance(ending.said, Failed) else ""
        parts = ["\n".join(self._lines), error, _how(ending.ended)]
        return "\n\n".join(part for part in parts if part) + "\n"

    async def keep(self, store: ObjectStore, folder: str, text: str) -> ObjectRef | None:
        """Put the text into the store; None when that does not work."""
        data = text.encode()
        key = f"{folder}/log-{uuid7()}.txt"
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await store.put(key, data)
        except (StoreUnavailable, TimeoutError, ValueError) as error:
            structlog.get_logger("worker").warning(
                "the last lines of a failed attempt could not be kept", error=str(error)
            )
            return None
        return ObjectRef(uri=key, sha256=hashlib.sha256(data).hexdigest())


def _how(ended: Ended | None) -> str:
    if ended is None:
        return ""
    if ended.signal is not None:
        memory = ", probably for memory" if ended.out_of_memory else ""
        return f"The training process was ended by signal {ended.signal.name}{memory}."
    return f"The training process ended with status {ended.code}."
