"""What the person in front of `ravand up` sees: one line per thing that matters."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_QUIET = {"debug", "notset", "trace"}
_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red"}
# What a structured line says about itself; the rest is what it is about.
_ABOUT_ITSELF = {"message", "event", "level", "timestamp", "logger", "service", "exception", "pid", "worker_id"}
# What is said by the way while everything starts, and is no trouble then: a server is not there yet.
_NOT_YET = re.compile(r"Unable connect to|waiting for the log|starting up|refused")
_SERVER_TROUBLE = re.compile(r"\b(PANIC|FATAL|ERROR) ")


class Console:
    """Rich on a terminal, plain text elsewhere."""

    def __init__(self) -> None:
        self.starting = True
        """Until the servers answer. Should one fail to start, its last words are shown then."""
        self._rich: Any = None
        self._lines: queue.Queue[tuple[str, str, str, str] | None] = queue.Queue(10_000)
        self._writer = threading.Thread(target=self._write, daemon=True)
        if sys.stdout.isatty():
            from rich.console import Console as RichConsole

            self._rich = RichConsole(highlight=False)
        self._writer.start()

    def say(self, source: str, text: str, level: str = "info") -> None:
        """One line. Never blocks: when nobody reads, lines are dropped, and the log files have them all."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait((time.strftime("%H:%M:%S"), source, text, level))

    def close(self) -> None:
        """Returns when all lines are written, or a moment later if nobody reads them."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._writer.join(timeout=2)

    def _write(self) -> None:
        # In a thread of its own: a terminal that was paused with Ctrl-S must not pause the services.
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # The reader went away (`| head`); the services go on.
                self._print(*line)

    def _print(self, clock: str, source: str, text: str, level: str) -> None:
        if self._rich is None:
            print(f"{clock} {source:<12} {text}", flush=True)
            return
        from rich.text import Text

        line = Text.assemble((clock, "dim"), " ", (f"{source:<12}", "cyan"), " ", (text, _STYLES.get(level, "")))
        self._rich.print(line, soft_wrap=True)

    def voice(self, source: str) -> Callable[[str], None]:
        """For what we ourselves say about one process."""
        return lambda text: self.say(source, text)

    def relay_service(self, source: str) -> Callable[[str], None]:
        """For the lines that a service writes: structured ones from INFO on, and whatever else it says.

        Of a traceback only the last line is shown; the log file has it all.
        """

        def relay(line: str) -> None:
            if not line.strip() or line.startswith((" ", "\t", "Traceback (most recent call last)")):
                return
            if self.starting and _NOT_YET.search(line):
                return
            entry = _structured(line)
            if entry is None:
                self.say(source, line)
            elif (level := str(entry.get("level", "info")).lower()) not in _QUIET:
                self.say(source, _sentence(entry), level)

        return relay

    def relay_server(self, source: str) -> Callable[[str], None]:
        """For Kafka and PostgreSQL: trouble only, and not while they start, when it is none. The log file has it all."""

        def relay(line: str) -> None:
            if _SERVER_TROUBLE.search(line[:200]) and not self.starting and not _NOT_YET.search(line):
                self.say(source, line, "error")

        return relay


def _structured(line: str) -> Mapping[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and ("message" in entry or "event" in entry) else None


def _sentence(entry: Mapping[str, Any]) -> str:
    about = " ".join(f"{name}={value}" for name, value in entry.items() if name not in _ABOUT_ITSELF)
    trouble = str(entry.get("exception", "")).strip().rpartition("\n")[2]
    return "  ".join(part for part in (str(entry.get("message") or entry.get("event")), about, trouble) if part)
