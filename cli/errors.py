"""What a person at the terminal is told when a command can't do its work."""

from __future__ import annotations


class CommandError(Exception):
    """What happened, and what to do about it. Printed as two lines, exit status 1, never with a traceback."""

    def __init__(self, message: str, what_to_do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.what_to_do = what_to_do
