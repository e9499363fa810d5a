"""Log lines: one event a line, readable on a terminal, JSON elsewhere, and never with a secret in them.

Everything goes to standard error, so that what a command prints on standard output stays clean. The standard library's
loggers (uvicorn, aiokafka, asyncpg) pass through the same chain, so they look alike and are scrubbed alike.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from adapters.settings import Settings

HIDDEN = "[hidden]"
_SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|ticket|authorization|cookie|credential|api_?key|private_?key", re.IGNORECASE
)
_SECRET_TEXTS = re.compile(
    r"""
      eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*                              # a JSON Web Token
    | (?<=://)[^\s/:@]*:[^\s/@]+(?=@)                              # user:password@ of a URL
    | (?<=[Bb]earer\ )[^\s"',;]+
    | (?<=ticket=)[^\s"'&]+ | (?<=token=)[^\s"'&]+ | (?<=password=)[^\s"'&]+
    | \$argon2id?\$[^\s"']+
    """,
    re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_DEEPEST = 6
_NOISY = ("aiokafka", "asyncpg", "asyncio", "uvicorn", "websockets", "telemetry.faststream", "httpx2", "httpcore2")
"""Libraries that say at INFO what nobody who runs the platform needs to read."""
_SELDOM = "aiokafka"
"""Says with each of its clients, many times a second, that the broker is away."""
_SELDOM_SECONDS = 10.0
_SELDOM_KEPT = 1000
_NO_NEWS = (
    "ASGI callable returned without completing handshake.",  # uvicorn, of a socket that was refused; we say which.
    "Auto create topics is disabled.",  # FastStream, at each start: so it shall be, and a missing topic is an error.
    "Group Coordinator Request failed: [Error 15]",  # aiokafka, until a new broker has made the topic of its groups.
    "Marking the coordinator dead",
)


class _News(logging.Filter):
    """Keeps away what libraries say and nobody can use, and most repetitions: what follows, the services say themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to say it."""
        text, now = record.getMessage(), time.monotonic()
        if text.startswith(_NO_NEWS):
            return False
        if not record.name.startswith(_SELDOM):
            return True
        if now - self._said.get(text, -_SELDOM_SECONDS) < _SELDOM_SECONDS:
            return False
        if len(self._said) >= _SELDOM_KEPT:
            self._said.clear()
        self._said[text] = now
        return True


class _Stream:
    """Writes lines. Nobody may be reading them any more, or the disk that keeps them be full: the work goes on."""

    def msg(self, line: str) -> None:
        """One line, in one piece."""
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def scrub_text(text: str) -> str:
    """The text without tokens, passwords in URLs and tickets, and without control characters that fool a terminal."""
    # Whatever the expression finds has one of these in it, and looking for them first is ten times as fast.
    if "=" in text or "eyJ" in text or "://" in text or "earer " in text or "$argon2" in text:
        text = _SECRET_TEXTS.sub(HIDDEN, text)
    if not text.isprintable():
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text


def scrub(value: Any, depth: int = 0) -> Any:
    """The same for whatever a log line holds: values under telling names are hidden, texts are cleaned."""
    match value:
        case str():
            return scrub_text(value)
        case bytes():
            return scrub_text(value.decode(errors="replace"))
        case None | bool() | int() | float():
            return value
        case _ if depth > _DEEPEST:
            return "…"
        case Mapping():
            return {
                str(name): HIDDEN if held and _is_telling(str(name)) else scrub(held, depth + 1)
                for name, held in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [scrub(held, depth + 1) for held in value]
        case _:
            return scrub_text(str(value))


@lru_cache(maxsize=1024)
def _is_telling(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None


def _scrubbing(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    kept = line.pop("exc_info", None)
    cleaned: dict[str, Any] = scrub(line)
    if kept is not None:
        cleaned["exc_info"] = kept
    return cleaned


def _scrubbed_exception(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """The traceback as text, after which it can be cleaned line by line."""
    line = structlog.processors.format_exc_info(_logger, _method, line)
    text = line.get("exception")
    if isinstance(text, str):
        line["exception"] = "\n".join(map(scrub_text, text.splitlines()))
    return line


def configure(settings: Settings, service: str) -> None:
    """Set up logging of this process, once, in its entry point. `service` stands in every line."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]

    def name_service(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        line.setdefault("service", service)
        return line

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        name_service,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if as_json
        else structlog.processors.TimeStamper("%H:%M:%S"),
    ]
    rendered: list[Processor] = [_scrubbing, _scrubbed_exception, *_renderers(as_json)]
    # Our own lines go straight to the stream: through the standard library each one would take three times as long.
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_name: _Stream(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_News())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    # It tells of every connection that it fails to make, with a traceback; whoever asked for one is told too.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _renderers(as_json: bool) -> list[Processor]:
    if as_json:
        encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        return [_telling_first, structlog.processors.JSONRenderer(lambda line, **_options: encode(line))]
    return [
        _service_first,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=32, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _telling_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    first = {"timestamp": line.pop("timestamp"), "level": line.pop("level"), "service": line.pop("service")}
    return {**first, "message": line.pop("event"), **line}


def _service_first(_logger: WrappedLogger, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """On a terminal the service stands before what happened, where the eye looks for it."""
    line["event"] = f"{line.pop('service'):<10} {line.get('event', '')}"
    return line
