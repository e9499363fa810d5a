"""What the relay reads of committed state. Everything here is a query; nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from api.live.feed import Update


class HistoryAway(Exception):
    """The database did not answer for longer than a subscriber waits."""


@dataclass(frozen=True, slots=True)
class Page:
    """Updates in order, and the version through which they are complete."""

    updates: Sequence[Update]
    through: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A workspace's version, and one of its jobs as of it; None for a job that is not the workspace's."""

    version: int
    log: str
    job: msgspec.Raw | None = None


class Journal(Protocol):
    """The committed history, as the relay needs it. Every method raises what the database raises."""

    async def snapshot(self, workspace: str, job_id: str | None) -> Snapshot:
        """The present, all of one moment."""

    async def since(self, workspace: str, version: int, job_id: str | None) -> Page:
        """What took effect after `version`, at most a page of it; only that job's where one is named."""

    async def versions(self, workspaces: Sequence[str]) -> Mapping[str, int]:
        """The newest version of each; one that has none is left out."""
