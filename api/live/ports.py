"""What the relay needs of the accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Sessions(Protocol):
    """The sessions that ended, known in this process as soon as anywhere."""

    def is_ended(self, session_id: str) -> bool:
        """Whether the session is over."""

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of every session that ends from now on."""
