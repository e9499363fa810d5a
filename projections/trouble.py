"""Tells of an outage once in a while, however many partitions stumble over it, and however often."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

_AGAIN_SECONDS = 10.0
log = structlog.get_logger(__name__)


class Trouble:
    """What has been told lately, by kind: twelve partitions and a dead broker are one line, not a hundred."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, kind: str, error: BaseException, **where: object) -> None:
        """A warning, or nothing if the same kind was told less than ten seconds ago."""
        now = self._clock()
        last = self._told.get(kind)
        if last is not None and now - last < _AGAIN_SECONDS:
            return
        self._told[kind] = now
        first_line = str(error).partition("\n")[0]
        log.warning(kind, error=f"{type(error).__name__}: {first_line}", **where)
