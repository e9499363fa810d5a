"""What an operator is told of a running projector: one line now and then, more often when it is behind."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from projections.flow import Progress

BEHIND = 1_000
"""Records: a lag beyond this is told soon, a smaller one is a matter of milliseconds."""
_OFTEN_SECONDS, _SELDOM_SECONDS = 10.0, 300.0
log = structlog.get_logger(__name__)


class Health:
    """Tells lag and state of the partitions; call `tell` as often as is convenient."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._records = 0

    def tell(self, partitions: Mapping[int, Progress], broken: set[int]) -> None:
        """Write the line if it is due."""
        now = time.monotonic()
        behind = {number: p.lag for number, p in partitions.items() if p.lag is not None and p.lag > BEHIND}
        waiting = sorted(number for number, p in partitions.items() if p.state != "running")
        trouble = bool(behind or waiting or broken)
        if now - self._told_at < (_OFTEN_SECONDS if trouble else _SELDOM_SECONDS):
            return
        records = sum(p.records for p in partitions.values())
        log.log(
            30 if trouble else 20,
            "projector",
            partitions=len(partitions),
            lag=sum(p.lag or 0 for p in partitions.values()),
            behind=behind,
            waiting=waiting,
            stopped=sorted(broken),
            records_per_s=round(max(0, records - self._records) / (now - self._told_at), 1),
        )
        self._told_at, self._records = now, records
