"""One workspace's updates, put in order: pure, and told of everything by others.

Facts come from Kafka at least once, late, twice, and sometimes before the commit that holds them. What leaves here is the
exact sequence of versions: each once, none missing, and only what is committed. What was released stays in a bounded ring,
from which clients are brought up to date without a query.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

COMMITTED = -1
"""The position of an update that was read from the journal: nobody needs to wait for its commit."""
RING_UPDATES = 4096
RING_BYTES = 4 * 1024 * 1024
HELD_UPDATES = 20_000


class Update:
    """One effective record as clients are told it. `frame` is empty when it is about no job."""

    __slots__ = ("frame", "job_id", "position", "version")

    def __init__(self, version: int, position: int, job_id: str | None, frame: bytes) -> None:
        self.version = version
        self.position = position
        """Offset in the log, or `COMMITTED`."""
        self.job_id = job_id
        self.frame = frame

    def __repr__(self) -> str:
        return f"Update({self.version}, {self.position}, {self.job_id!r}, {len(self.frame)} bytes)"


class Feed:
    """The order of one workspace's updates, from a stated version on."""

    def __init__(
        self,
        *,
        ring_updates: int = RING_UPDATES,
        ring_bytes: int = RING_BYTES,
        held_updates: int = HELD_UPDATES,
    ) -> None:
        self.last: int | None = None
        """The newest version released; None until `start`."""
        self.size = 0
        """Bytes of frames in the ring."""
        self._ring: list[Update] = []
        self._head = 0  # Where the ring begins in the list, which is cut now and then: cheaper than a deque to index.
        self._held: dict[int, Update] = {}
        self._dropped: Update | None = None
        self.ring_bytes = ring_bytes
        """How many bytes of frames the ring may hold; whoever shares memory among feeds may change it."""
        self._ring_updates, self._held_updates = ring_updates, held_updates

    def start(self, version: int) -> None:
        """Begin after `version`, which the caller read from committed state."""
        self.last = version
        self._held = {v: update for v, update in self._held.items() if v > version}

    def offer(self, update: Update) -> None:
        """A fact has come; it may be old, early, or not yet committed."""
        if self.last is not None and update.version <= self.last:
            return
        if len(self._held) >= self._held_updates and update.version not in self._held:
            # Too far ahead of what is committed to be kept: the journal has it once its turn comes.
            if self._dropped is None or self._dropped.version < update.version:
                self._dropped = update
            return
        self._held[update.version] = update

    def release(self, cursor: int) -> list[Update]:
        """What may be handed on now that everything before the offset `cursor` is committed, in order."""
        held, last = self._held, self.last
        if last is None or not held:
            return []
        released: list[Update] = []
        while (update := held.get(last + 1)) is not None and update.position < cursor:
            del held[last + 1]
            last += 1
            released.append(update)
        self._keep(released)
        return released

    def has_gap(self, cursor: int) -> bool:
        """Whether something committed lies beyond a version that never came: after `release`, the journal must fill it."""
        if self.last is None or self.last + 1 in self._held:
            return False
        if any(update.position < cursor for update in self._held.values()):
            return True
        dropped = self._dropped
        return dropped is not None and dropped.version > self.last and dropped.position < cursor

    def distrust(self, cursor: int) -> None:
        """The journal, read when all before `cursor` was committed, has nothing after `last`: what claims to be, is not of it.

        Facts of a history that was replaced by a backup look like this.
        """
        self._held = {v: update for v, update in self._held.items() if update.position >= cursor}
        if self._dropped and self._dropped.position < cursor:
            self._dropped = None

    def fill(self, journal: Iterable[Update]) -> list[Update]:
        """Consecutive updates out of the journal; those that are new, in order."""
        last = self.last
        if last is None:
            return []
        released = []
        for update in journal:
            if update.version == last + 1:
                last += 1
                released.append(update)
                self._held.pop(last, None)
        self._keep(released)
        return released

    def _keep(self, released: Sequence[Update]) -> None:
        if not released:
            return
        self.last = released[-1].version
        self._ring.extend(released)
        self.size += sum(len(update.frame) for update in released)
        while self._head < len(self._ring) and (
            len(self._ring) - self._head > self._ring_updates or self.size > self.ring_bytes
        ):
            self.size -= len(self._ring[self._head].frame)
            self._head += 1
        if self._head * 2 > len(self._ring):
            del self._ring[: self._head]
            self._head = 0

    def after(self, version: int, limit: int = 1000) -> list[Update] | None:
        """Up to `limit` updates right after `version`, or None when the ring does not reach back that far."""
        if self.last is not None and version >= self.last:
            return []
        if self._head == len(self._ring) or self._ring[self._head].version > version + 1:
            return None
        first = self._head + version + 1 - self._ring[self._head].version
        return self._ring[first : first + limit]
