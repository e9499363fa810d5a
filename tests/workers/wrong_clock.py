"""`python -m tests.workers.wrong_clock HOURS …`: the command line `ravand …`, which takes the time of day to be another one."""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

_now, _now_ns = time.time, time.time_ns


def _wrong_by(hours: int) -> None:
    """In this process and in those that it forks. What counts seconds (`time.monotonic`) stays right."""

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: _now() + 3600 * hours
    time.time_ns = lambda: _now_ns() + 3600 * hours * 10**9
    datetime.datetime = Wrong  # type: ignore[misc]  # Before anybody has imported it by name.


if __name__ == "__main__":
    _wrong_by(int(sys.argv.pop(1)))
    from cli.__main__ import main

    main()
