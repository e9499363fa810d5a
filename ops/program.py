"""What can be kept running: a command, how it is made ready, and how one knows that it answers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Program(Protocol):
    """One long-running child process: a server or a service."""

    @property
    def name(self) -> str:
        """What people call it; several copies of a service share it."""

    @property
    def index(self) -> int:
        """Which copy, from 0."""

    @property
    def address(self) -> str | None:
        """`host:port`, if it listens."""

    @property
    def folder(self) -> Path:
        """Where it runs."""

    @property
    def death_signal(self) -> signal.Signals:
        """What the kernel sends it when we die."""

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to end in good order."""

    @property
    def grace_seconds(self) -> float:
        """How long that may take before it is killed."""

    @property
    def hurry_signal(self) -> signal.Signals:
        """What ends it after that, and at once."""

    @property
    def patience_seconds(self) -> float | None:
        """How long it may take to answer before it is taken for broken."""

    @property
    def before_exec(self) -> Callable[[], None] | None:
        """What its process does to itself first."""

    async def prepare(self) -> None:
        """Whatever must hold before a start: data made, settings written, what a crash left removed."""

    def command(self) -> Sequence[str]:
        """Program and arguments."""

    def environment(self) -> Mapping[str, str]:
        """All of its environment."""

    async def answers(self) -> None:
        """Returns once it does its work. Cancelled when its process ends or time is up."""
