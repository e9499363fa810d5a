"""Standard output and error of a training child, as lines: bounded in length, in number, and in what they cost to read."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from workers.child_messages import Logged

LONGEST = 8192
"""Characters of a line; the rest of it is left out."""
A_SECOND = 100
"""Lines a second that are passed on at once."""
LATEST = 50
"""Of what is beyond that, so many of the last lines are passed on when the second is over."""
CHUNK = 64 * 1024


class LineBudget:
    """Decides which lines are passed on: the first of every second, and the last of those that were too many."""

    def __init__(self, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`stream` is `stdout` or `stderr`."""
        self._stream = stream
        self._clock = clock
        self._second = clock()
        self._passed = 0
        self._held: deque[str] = deque(maxlen=LATEST)
        self._dropped = 0

    @property
    def is_spent(self) -> bool:
        """Whether lines are being held back."""
        return self._passed >= A_SECOND and self._clock() - self._second < 1

    def take(self, lines: list[bytes]) -> Iterator[Logged]:
        """The lines to pass on now."""
        if self._clock() - self._second >= 1:
            yield from self.rest()
            self._second, self._passed = self._clock(), 0
        for line in lines:
            text = line[:LONGEST].decode("utf-8", "replace").rstrip("\r")
            if self._passed < A_SECOND:
                self._passed += 1
                yield self._logged(text)
            else:
                self._dropped += len(self._held) == LATEST
                self._held.append(text)

    def rest(self) -> Iterator[Logged]:
        """What was held back, with a word about what was left out before it."""
        if self._dropped:
            yield self._logged(f"… {self._dropped} lines left out")
        yield from map(self._logged, self._held)
        self._held.clear()
        self._dropped = 0

    def _logged(self, text: str) -> Logged:
        return Logged(stream=self._stream, text=text, time=time.time())


async def lines(reader: asyncio.StreamReader, stream: str) -> AsyncIterator[Logged]:
    """Lines as they come, until the pipe is closed."""
    budget = LineBudget(stream)
    rest = b""
    while True:
        try:
            async with asyncio.timeout(1.0):
                chunk = await reader.read(CHUNK)
        except TimeoutError:
            for logged in budget.take([]):
                yield logged
            continue
        if not chunk:
            break
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[:LONGEST]
        for logged in budget.take(whole):
            yield logged
        if budget.is_spent:  # A flood: let the training wait for its own printing rather than the worker.
            await asyncio.sleep(0.01)
    for logged in (*budget.take([rest] if rest else []), *budget.rest()):
        yield logged
