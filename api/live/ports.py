"""What the relay needs of the rest of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Sessions(Protocol):
    """The sessions that ended, known in this process as soon as anywhere."""

    def is_ended(self, session_id: str) -> bool:
        """Whether the session is over."""

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of every session that ends from now on."""


class Listener(Protocol):
    """The process's one connection that hears PostgreSQL's notifications."""

    def hear(self, channel: str, hearer: Callable[[str], None]) -> None:
        """Call with the payload of every notification on the channel."""

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Call with False when hearing ends, and with True when it begins (again)."""
