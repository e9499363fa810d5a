"""When a step is worth logging and an epoch worth saving: by time, so that neither slows training down."""

from __future__ import annotations

import time
from types import TracebackType

LOG_SECONDS = 0.5
SAVE_SECONDS = 2.0
SAVE_SHARE = 50
"""Training takes at least so many times as long as saving."""


def now() -> float:
    """Seconds since 1970."""
    return time.time()


class StepClock:
    """True every half a second."""

    def __init__(self) -> None:
        """The first step may be logged."""
        self._next = 0.0

    def __call__(self) -> bool:
        """Whether this step is logged."""
        moment = time.monotonic()
        if moment < self._next:
            return False
        self._next = moment + LOG_SECONDS
        return True


class CheckpointClock:
    """Whether a checkpoint is due: every so many epochs if somebody said so, else every two seconds and at the end.

    Used as a context it measures what a checkpoint costs, and then waits long enough for that to be little.
    """

    def __init__(self, every: int | None, epochs: int) -> None:
        """`every` epochs, or None to go by time."""
        self._every = every
        self._epochs = epochs
        self._next = 0.0
        self._began = 0.0

    def start(self) -> None:
        """Training begins now."""
        self._next = time.monotonic() + SAVE_SECONDS

    def is_due(self, epoch: int) -> bool:
        """Whether to save after this epoch."""
        if self._every is not None:
            return epoch % self._every == 0
        return epoch == self._epochs or time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        ended = time.monotonic()
        self._next = ended + max(SAVE_SECONDS, SAVE_SHARE * (ended - self._began))
