"""Old schema versions of events, brought to the newest one by pure functions, one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(event name, version) → the function that makes version + 1 of it. Entries are never removed: the log is for ever."""


def upcast(name: str, version: int, newest: int, data: Any) -> Any:
    """`data` of an event as the newest version has it. Raises `KeyError` for a version that was never released."""
    while version < newest:
        data = UPCASTERS[name, version](data)
        version += 1
    if version > newest:
        raise KeyError(f"{name} version {version} is newer than {newest}")
    return data
