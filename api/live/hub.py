"""The workspaces that somebody listens to: facts come in once, and go out to everyone who subscribed.

Only workspaces with listeners are followed (and for a while after the last one left, so that one who reconnects is brought up
to date from memory). Correctness needs no message to arrive: facts may be missing, late or repeated, notifications may be
lost. An audit compares what was released with the committed versions a few times a second while anything is committed, and fills
from the journal what did not come by itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from adapters.kafka import partition_of
from adapters.postgres import is_outage
from api.live import messages
from api.live.channel import Channel
from api.live.connection import Connection, Subscription
from api.live.feed import RING_BYTES, Update
from api.live.journal import HistoryAway, Journal, Page, Snapshot
from schemas import facts
from schemas.topics import EVENTS

AUDIT_SECONDS = 0.25
STALLED_AUDITS = 20
"""So many audits in a row that had to fill, and not one fact in between, mean that Kafka's client is stuck."""
RINGS_BYTES = 64 * 1024 * 1024
"""What the rings of all workspaces together may hold; each has its share."""
SMALLEST_RING_BYTES = 64 * 1024
SWEEP_SECONDS = 30.0
LINGER_SECONDS = 120.0
"""How long a workspace is followed after its last listener has gone."""
PATIENCE_SECONDS = 10.0
"""How long a subscriber waits for a database that is away."""
READS_AT_ONCE = 3
"""Of the pool's connections; the others stay free for requests."""

_log = structlog.get_logger(__name__)


class Hub:
    """All followed workspaces of this process."""

    def __init__(self, journal: Journal, *, patience: float = PATIENCE_SECONDS) -> None:
        self.channels: dict[str, Channel] = {}
        self.on_stall: Callable[[], None] | None = None
        """Called when facts keep coming from the journal alone: whatever brings them from Kafka does not."""
        self.wanted = asyncio.Event()
        """Set while anything is followed: the tails rest otherwise."""
        self._in_partition: defaultdict[int, set[Channel]] = defaultdict(set)
        self._audits_in_vain = 0
        self._journal = journal
        self._patience = patience
        self._cursors: dict[int, int] = {}
        self._notified: set[int] = set()
        self._audit_due = asyncio.Event()
        self._log_id: str | None = None
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._snapshots: dict[tuple[str, str | None], asyncio.Task[Snapshot]] = {}

    # --- what comes in ------------------------------------------------------------------------------------------------

    def facts(self, partition: int, records: Iterable[tuple[str, bytes, int]]) -> None:
        """Facts of a partition, in the order of the topic: (workspace, value, position in the log)."""
        touched: dict[str, Channel] = {}
        for workspace, value, position in records:
            channel = self.channels.get(workspace)
            if channel is None:
                continue
            try:
                fact = facts.decode(value)
            except (msgspec.MsgspecError, ValueError) as error:
                _log.error("a fact cannot be read", partition=partition, position=position, error=str(error))
                self._notified.add(partition)
                continue  # The journal has the record; the audit or the next fact fills the gap.
            channel.feed.offer(update_of(fact, position))
            touched[workspace] = channel
        for channel in touched.values():
            self._audits_in_vain = 0
            self._release(channel)

    def committed(self, partition: int, next_offset: int) -> None:
        """Everything of the partition before `next_offset` is committed."""
        if next_offset <= self._cursors.get(partition, -1):
            return
        self._cursors[partition] = next_offset
        if channels := self._in_partition.get(partition):
            self._notified.add(partition)
            self._audit_due.set()
            for channel in list(channels):
                self._release(channel)

    def log_is(self, log_id: str) -> None:
        """The history that is in force. Another one than before ends all subscriptions: their versions mean nothing in it."""
        if self._log_id is not None and self._log_id != log_id:
            _log.warning("the log is another one", was=self._log_id, now=log_id)
            self._cursors.clear()
            for channel in list(self.channels.values()):
                self._drop(channel)
                for connection in list(channel.members):
                    connection.resync(0, log_id, "A backup was restored: versions count anew.")
        self._log_id = log_id

    def _release(self, channel: Channel) -> None:
        cursor = self._cursors.get(channel.partition, 0)
        channel.deliver(channel.feed.release(cursor))
        if not channel.is_filling and channel.feed.has_gap(cursor):
            self._fill(channel)

    # --- what did not come by itself ----------------------------------------------------------------------------------

    def _fill(self, channel: Channel) -> None:
        if not channel.is_filling:
            channel.filling = asyncio.get_running_loop().create_task(self._fill_from_journal(channel))

    async def _fill_from_journal(self, channel: Channel) -> None:
        while self.channels.get(channel.workspace) is channel:
            cursor = self._cursors.get(channel.partition, 0)
            page = await self.since_patiently(channel.workspace, channel.last, None)
            channel.deliver(channel.feed.fill(page.updates))
            if not page.updates:
                channel.feed.distrust(cursor)
            cursor = self._cursors.get(channel.partition, 0)
            channel.deliver(channel.feed.release(cursor))
            if not page.updates and not channel.feed.has_gap(cursor):
                return

    async def audit(self) -> None:
        """Compare, for ever, what was released with what is committed."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._audit_due.wait()
            await asyncio.sleep(AUDIT_SECONDS)
            self._sweep()
            self._audit_due.clear()
            partitions, self._notified = self._notified, set()
            channels = [c for c in self.channels.values() if c.partition in partitions and c.feed.last is not None]
            if not channels:
                continue
            try:
                async with self._reads:
                    versions = await self._journal.versions([channel.workspace for channel in channels])
            except Exception as error:
                if not is_outage(error):
                    raise
                _log.warning("versions cannot be read", error=repr(error))
                self._notified |= partitions
                self._audit_due.set()
                continue
            behind = [channel for channel in channels if versions.get(channel.workspace, 0) > channel.last]
            for channel in behind:
                self._fill(channel)
            self._audits_in_vain += bool(behind)
            if self._audits_in_vain >= STALLED_AUDITS and self.on_stall:
                self._audits_in_vain = 0
                self.on_stall()

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for channel in list(self.channels.values()):
            channel.measurements.forget()
            if channel.deserted_at is not None and now - channel.deserted_at > LINGER_SECONDS:
                self._drop(channel)
        if not self.channels:
            self.wanted.clear()

    def _add(self, workspace: str) -> Channel:
        channel = Channel(workspace, partition_of(workspace.encode(), EVENTS.partitions))
        self.channels[workspace] = channel
        self._in_partition[channel.partition].add(channel)
        self._share_memory()
        self.wanted.set()
        return channel

    def _share_memory(self) -> None:
        share = max(SMALLEST_RING_BYTES, min(RING_BYTES, RINGS_BYTES // max(1, len(self.channels))))
        for channel in self.channels.values():
            channel.feed.ring_bytes = share

    def _drop(self, channel: Channel) -> None:
        del self.channels[channel.workspace]
        self._in_partition[channel.partition].discard(channel)
        self._share_memory()
        if channel.filling:
            channel.filling.cancel()

    async def close(self) -> None:
        """Forget everything."""
        tasks: list[asyncio.Task[Any]] = [c.filling for c in self.channels.values() if c.filling]
        tasks += self._snapshots.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in list(self.channels.values()):
            self._drop(channel)
        self.wanted.clear()

    # --- what subscribers ask -----------------------------------------------------------------------------------------

    async def channel(self, connection: Connection) -> Channel:
        """Its workspace, followed from now on, with a version to start from. Raises `HistoryAway`."""
        workspace = connection.workspace
        channel = self.channels.get(workspace)
        if channel is None:
            channel = self._add(workspace)
        channel.members.add(connection)
        channel.deserted_at = None
        if channel.feed.last is None:
            # Facts are collected from now on, so nothing that is newer than this answer is missed.
            snapshot = await self.snapshot(workspace, None)
            if channel.feed.last is None:
                channel.feed.start(snapshot.version)
                self._notified.add(channel.partition)
                self._audit_due.set()
                self._release(channel)
        return channel

    async def snapshot(self, workspace: str, job_id: str | None, *, at_least: int = 0) -> Snapshot:
        """The present. Many who ask at once share one answer; one that is below `at_least` is asked for again.

        Raises `HistoryAway`.
        """
        key = (workspace, job_id)
        task = self._snapshots.get(key)
        if task is not None:
            snapshot = await asyncio.shield(task)
            if snapshot.version >= at_least:
                return snapshot
        task = self._snapshots.get(key)
        if task is None or task.done():
            task = self._snapshots[key] = asyncio.create_task(self._read_snapshot(workspace, job_id))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, str | None], task: asyncio.Task[Snapshot]) -> None:
        if self._snapshots.get(key) is task:
            del self._snapshots[key]
        if not task.cancelled():
            task.exception()  # Whoever waited has it; nobody may have.

    async def _read_snapshot(self, workspace: str, job_id: str | None) -> Snapshot:
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + self._patience, 0.05
        while True:
            try:
                async with self._reads:
                    return await self._journal.snapshot(workspace, job_id)
            except Exception as error:
                if not is_outage(error):
                    raise
                if loop.time() + delay > deadline:
                    raise HistoryAway from error
            await asyncio.sleep(delay)
            delay = min(1.0, delay * 2)

    async def since(self, workspace: str, version: int, job_id: str | None) -> Page:
        """A page of the journal. Raises what the database raises."""
        async with self._reads:
            return await self._journal.since(workspace, version, job_id)

    async def since_patiently(self, workspace: str, version: int, job_id: str | None) -> Page:
        """A page of the journal, as soon as it can be read: who waits here keeps its place."""
        delay = 0.05
        while True:
            try:
                return await self.since(workspace, version, job_id)
            except Exception as error:
                if not is_outage(error):
                    raise
                _log.warning("the journal cannot be read", workspace=workspace, error=repr(error))
            await asyncio.sleep(delay)
            delay = min(2.0, delay * 2)

    def leave(self, connection: Connection, subscription: Subscription) -> None:
        """One of its subscriptions is over."""
        channel = self.channels.get(connection.workspace)
        if channel is not None:
            channel.leave(connection, subscription)

    def gone(self, connection: Connection) -> None:
        """The connection is closed."""
        channel = self.channels.get(connection.workspace)
        if channel is not None:
            channel.members.discard(connection)
            if not channel.members:
                channel.deserted_at = asyncio.get_running_loop().time()


def update_of(fact: facts.Fact, position: int) -> Update:
    """A fact as clients are told it."""
    return Update(fact.version, position, fact.job.job_id if fact.job else None, messages.job_update(fact))
