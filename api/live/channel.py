"""One followed workspace: its feed, and who is told of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from api.live.connection import Connection, Subscription
from api.live.feed import Feed, Update
from api.live.measurements import Measurements

RUN_BYTES = 64 * 1024
"""Updates of one job that are released together are written together, up to this size."""


class Channel:
    """One followed workspace and its live subscribers."""

    def __init__(self, workspace: str, partition: int) -> None:
        self.workspace = workspace
        self.partition = partition
        self.feed = Feed()
        self.jobs: defaultdict[str, dict[Connection, Subscription]] = defaultdict(dict)
        self.everything: dict[Connection, Subscription] = {}
        self.measurements = Measurements(self)
        self.filling: asyncio.Task[None] | None = None
        self.members: set[Connection] = set()
        """Connections that ever subscribed here and are still open."""
        self.deserted_at: float | None = None

    @property
    def is_filling(self) -> bool:
        """Whether the journal is being read for it."""
        return self.filling is not None and not self.filling.done()

    @property
    def last(self) -> int:
        """The newest version that live subscribers were told of."""
        assert self.feed.last is not None
        return self.feed.last

    def join(self, connection: Connection, subscription: Subscription) -> None:
        """The subscription has all up to what the connection was told: from here on it is live."""
        subscription.live = True
        if subscription.job_id is None:
            self.everything[connection] = subscription
        else:
            self.jobs[subscription.job_id][connection] = subscription
        self.measurements.welcome(connection, subscription.job_id)

    def leave(self, connection: Connection, subscription: Subscription) -> None:
        """The subscription is over."""
        subscription.live = False
        if subscription.job_id is None:
            self.everything.pop(connection, None)
        elif listeners := self.jobs.get(subscription.job_id):
            listeners.pop(connection, None)
            if not listeners:
                del self.jobs[subscription.job_id]

    def listeners(self, job_id: str) -> dict[Connection, Subscription]:
        """Who is told of a job live, once each."""
        if not self.everything:
            return self.jobs.get(job_id, {})
        return {**self.everything, **self.jobs.get(job_id, {})}

    def deliver(self, released: Sequence[Update]) -> None:
        """Send what was released to its live subscribers. Never waits."""
        for run in _runs(released):
            first, last = run[0], run[-1]
            listeners = self.listeners(first.job_id) if first.job_id else None
            if not listeners:
                continue
            frames = first.frame if len(run) == 1 else b"".join([update.frame for update in run])
            # Pushing may close a connection, which leaves: so over a copy.
            for connection, subscription in list(listeners.items()):
                if subscription.needs(first.version):
                    connection.push(frames, first.version, last.version)
                elif subscription.needs(last.version):
                    newer = [update for update in run if subscription.needs(update.version)]
                    connection.push(b"".join(u.frame for u in newer), newer[0].version, last.version)


def _runs(released: Sequence[Update]) -> Iterable[list[Update]]:
    """Neighbours of the same job, so that a burst is one write for each client and the order of versions stays."""
    run: list[Update] = []
    size = 0
    for update in released:
        if not update.frame:
            continue
        if run and (run[-1].job_id != update.job_id or size + len(update.frame) > RUN_BYTES):
            yield run
            run, size = [], 0
        run.append(update)
        size += len(update.frame)
    if run:
        yield run
