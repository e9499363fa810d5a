"""How long a job rests before it may be claimed again."""

from __future__ import annotations

FIRST_MS = 1_000
LONGEST_MS = 60_000


def backoff_ms(setbacks: int) -> int:
    """Milliseconds to wait after the given number of losses and releases since the last effective checkpoint.

    The first is free, so that one lost machine costs no more than its lease; then the wait doubles up to a minute.
    """
    if setbacks <= 1:
        return 0
    return int(min(LONGEST_MS, FIRST_MS * 2 ** min(setbacks - 2, 16)))
