"""The command line as a user runs it, in the test's own process."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import structlog

from adapters.settings import Settings, environment_of
from cli.__main__ import main
from tests.projections.conftest import database_template, log, settings

__all__ = ["database_template", "interruptible", "log", "ravand", "settings"]
Ravand = Callable[..., "Ended"]
NOWHERE = {
    "RAVAND_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "RAVAND_DATABASE__URL": "postgresql://ravand:secret@127.0.0.1:1/ravand",
}
"""Where nothing listens."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    def explains(self, *said: str) -> None:
        """It could not be done, and the user is told so in sentences."""
        assert self.status == 1
        for text in said:
            assert text in self.err
        assert "Traceback" not in self.err


@pytest.fixture
def ravand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ravand]:
    """Runs one command, with these settings and variables. In a thread, since each command runs a loop of its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def status() -> int:
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def run(*arguments: str, settings: Settings | None = None, **variables: str) -> Ended:
        with monkeypatch.context() as patched, ThreadPoolExecutor(1) as thread:
            patched.setattr(sys, "argv", ["ravand", *arguments])
            for name, value in {**(environment_of(settings) if settings else {}), **variables}.items():
                patched.setenv(name, value)
            capsys.readouterr()
            ended = thread.submit(status).result()
            out, err = capsys.readouterr()
            return Ended(ended, out, err)

    yield run
    # Some commands set up logging for the whole process.
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal: what a shell starts in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
