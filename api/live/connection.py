"""One client: what it subscribed to, how far it has been told, and what happens when it cannot keep up.

A subscription first catches up, at the client's own pace, out of the workspace's ring or the journal; once it has reached
what the connection has been told, it joins the live stream in the same step, so nothing falls between the two and nothing
comes twice. A client that cannot take a burst falls behind in the same way, without a queue that grows, and comes back;
only one that does not read for a while is closed, with the last version that was sent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from api.live import messages
from api.live.feed import Update
from api.live.journal import HistoryAway, Page
from api.live.messages import Message
from api.live.sink import Sink

if TYPE_CHECKING:
    from api.live.channel import Channel
    from api.live.hub import Hub

MAX_SUBSCRIPTIONS = 1000
CALM_BYTES = 64 * 1024
"""Catching up and measurements pause while more than this waits for a client."""
SLOW_SECONDS = 5.0
"""A client that takes nothing for this long, while something waits, is too slow."""
LINGER_SECONDS = 30.0
"""How long one that was too slow may take to read up to the close frame."""
CATCHING_UP_AT_ONCE = 4

TOKEN_DIED = 4401
TOO_SLOW = 4408
RESTARTING = 1012

_log = structlog.get_logger(__name__)


class Subscription:
    """To one job, or with `job_id` None to every job of the workspace."""

    __slots__ = ("job_id", "lines", "live", "position", "task")

    def __init__(self, job_id: str | None, lines: bool) -> None:
        self.job_id = job_id
        self.lines = lines
        self.position: int | None = None
        """Updates up to this version it has, or does not want; None before its answer."""
        self.live = False
        self.task: asyncio.Task[None] | None = None

    def needs(self, version: int) -> bool:
        """Whether an update of this version is news to it."""
        return self.position is not None and self.position < version


class Connection:
    """One accepted socket of one member of one workspace."""

    def __init__(
        self,
        sink: Sink,
        hub: Hub,
        *,
        workspace: str,
        session: str,
        queue_bytes: int,
    ) -> None:
        self.sink = sink
        self.workspace = workspace
        self.session = session
        self.subscriptions: dict[str | None, Subscription] = {}
        self._hub = hub
        self._limit = queue_bytes
        self._sent = 0
        self._behind: int | None = None
        """Live updates up to here were sent and later ones were not: `_come_back` sends them."""
        self._returning: asyncio.Task[None] | None = None
        self._measurements: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(CATCHING_UP_AT_ONCE)
        sink.limit(min(CALM_BYTES, max(1, queue_bytes // 2)))
        sink.on_drain = self._flush_measurements

    # --- requests ---------------------------------------------------------------------------------------------------

    def handle(self, text: str | bytes) -> None:
        """Act on one message of the client."""
        try:
            request = messages.read(text)
        except messages.Malformed as error:
            self.tell(messages.Error(code="malformed", message=f"This message cannot be read: {error}."))
            return
        match request:
            case messages.SubscribeJob():
                self._subscribe(request.job_id, request.since, request.log, request.lines)
            case messages.SubscribeJobs():
                self._subscribe(None, request.since, request.log, request.lines)
            case messages.UnsubscribeJob(job_id=job_id):
                self._drop(job_id)
                self.tell(messages.Unsubscribed(job_id=job_id))
            case messages.UnsubscribeJobs():
                self._drop(None)
                self.tell(messages.UnsubscribedJobs())
            case messages.Ping():
                self.tell(messages.Pong())

    def _subscribe(self, job_id: str | None, since: int | None, log: str | None, lines: bool) -> None:
        if job_id not in self.subscriptions and len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            text = (
                f"A socket has at most {MAX_SUBSCRIPTIONS} subscriptions. Unsubscribe from some, or use subscribe_jobs."
            )
            self.tell(messages.Error(code="too_many_subscriptions", message=text, job_id=job_id))
            return
        self._drop(job_id)
        subscription = self.subscriptions[job_id] = Subscription(job_id, lines)
        subscription.task = self._run(self._begin(subscription, since, log))

    def _drop(self, job_id: str | None) -> None:
        subscription = self.subscriptions.pop(job_id, None)
        if subscription is None:
            return
        if subscription.task:
            subscription.task.cancel()
        self._hub.leave(self, subscription)
        if job_id is not None:
            self._measurements.pop(job_id, None)

    def tell(self, message: Message) -> None:
        """Send one message that is no update. One who asks without ever reading the answers is too slow as well."""
        if self.sink.waiting() > self._limit + CALM_BYTES:
            self.close_slow()
            return
        self.sink.write(messages.frame(message))

    # --- catching up --------------------------------------------------------------------------------------------------

    async def _begin(self, subscription: Subscription, since: int | None, log: str | None) -> None:
        job_id = subscription.job_id
        async with self._turns:
            try:
                channel = await self._hub.channel(self)
                snapshot = await self._hub.snapshot(self.workspace, job_id, at_least=since or 0)
            except HistoryAway:
                self._end(subscription)
                text = "The history cannot be read right now; nothing is lost. Subscribe again in a few seconds."
                self.tell(messages.Error(code="unavailable", message=text, job_id=job_id))
                return
            if job_id is not None and snapshot.job is None:
                self._end(subscription)
                text = "There is no such job in this workspace."
                self.tell(messages.Error(code="not_found", message=text, job_id=job_id))
                return
            if (reason := _unusable(since, log, snapshot.version, snapshot.log)) is not None:
                self._end(subscription)
                self.tell(messages.Resync(version=snapshot.version, log=snapshot.log, reason=reason, job_id=job_id))
                return
            if job_id is None or snapshot.job is None:
                self.tell(messages.SubscribedJobs(version=snapshot.version, log=snapshot.log))
            else:
                self.tell(
                    messages.Subscribed(job_id=job_id, job=snapshot.job, version=snapshot.version, log=snapshot.log)
                )
            await self._catch_up(channel, subscription, snapshot.version if since is None else since)

    def _end(self, subscription: Subscription) -> None:
        """The subscription never began; whoever asked is told why by the caller."""
        if self.subscriptions.get(subscription.job_id) is subscription:
            del self.subscriptions[subscription.job_id]

    async def _catch_up(self, channel: Channel, subscription: Subscription, position: int) -> None:
        while True:
            subscription.position = position
            told = channel.last if self._behind is None else self._behind
            if position >= told:
                self._sent = max(self._sent, position)
                channel.join(self, subscription)
                return
            page = await self._page(channel, position, subscription.job_id)
            for update in page.updates:
                if update.frame and subscription.job_id in (None, update.job_id):
                    await self._drained()
                    self.sink.write(update.frame)
                    subscription.position = update.version
            position = page.through

    async def _page(self, channel: Channel, version: int, job_id: str | None) -> Page:
        updates = channel.feed.after(version)
        if updates is None:
            return await self._hub.since_patiently(self.workspace, version, job_id)
        # Nothing is awaited on this path: let the other tasks have a turn too.
        await asyncio.sleep(0)
        return Page(updates, updates[-1].version if updates else version)

    # --- live -------------------------------------------------------------------------------------------------------

    def push(self, frames: bytes, first: int, last: int) -> None:
        """Send joined live updates, of versions `first` to `last`; or note that the client is behind. Never waits."""
        if self._behind is not None:
            return
        sink = self.sink
        if sink.waiting() + len(frames) > self._limit:
            self._behind = first - 1
            self._returning = self._run(self._come_back())
            return
        sink.write(frames)
        self._sent = last

    async def _come_back(self) -> None:
        """Send what the client missed since it fell behind, as fast as it takes it, until it is level again."""
        channel = await self._hub.channel(self)
        while self._behind is not None:
            await self._drained()
            if self._behind >= channel.last:
                self._behind = None
                self._flush_measurements()
                return
            only = next(iter(self.subscriptions)) if len(self.subscriptions) == 1 else None
            page = await self._page(channel, self._behind, only)
            for update in page.updates:
                if self._wants(update):
                    await self._drained()
                    if self._wants(update):  # It may have unsubscribed in the meantime.
                        self.sink.write(update.frame)
                        self._sent = update.version
                self._behind = update.version
            self._behind = page.through

    def _wants(self, update: Update) -> bool:
        if not update.frame:
            return False
        for subscription in (self.subscriptions.get(update.job_id), self.subscriptions.get(None)):
            if subscription and subscription.live and subscription.needs(update.version):
                return True
        return False

    async def _drained(self) -> None:
        """Wait until the client takes more. One that takes nothing for long is closed, which cancels this task."""
        if self.sink.writable and not self.sink.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOW_SECONDS):
                await self.sink.drained()
        if not self.sink.writable:
            self.close_slow()
        if self.sink.closed:
            raise asyncio.CancelledError

    # --- measurements -------------------------------------------------------------------------------------------------

    def push_measurement(self, job_id: str, frame: bytes) -> None:
        """Send the newest measurement of a job; while the client is busy only the newest is kept."""
        if self._behind is None and self.sink.writable:
            self._measurements.pop(job_id, None)
            self.sink.write(frame)
        else:
            self._measurements[job_id] = frame

    def push_lines(self, frame: bytes) -> None:
        """Send lines, or skip them for a client that is busy: they can be read from the job's log."""
        if self._behind is None and self.sink.writable:
            self.sink.write(frame)

    def _flush_measurements(self) -> None:
        if self._behind is not None or self.sink.closed:
            return
        while self._measurements and self.sink.writable:
            self.sink.write(self._measurements.pop(next(iter(self._measurements))))

    # --- the end ------------------------------------------------------------------------------------------------------

    def resync(self, version: int, log: str, reason: str) -> None:
        """Another history is in force: every subscription is over, and says so."""
        for job_id in list(self.subscriptions):
            self._drop(job_id)
            self.tell(messages.Resync(version=version, log=log, reason=reason, job_id=job_id))
        if self._returning:
            self._returning.cancel()
        self._behind = None
        self._sent = 0

    def close_slow(self) -> None:
        """Close it as too slow, with the version from which it can resume."""
        reached = [s.position for s in self.subscriptions.values() if not s.live and s.position is not None]
        reached += [version for version in (self._sent, self._behind) if version]
        last = min(reached, default=0)
        self.close(TOO_SLOW, f"too slow; last version {last}", LINGER_SECONDS)

    def close(self, code: int, reason: str, linger: float = 5.0) -> None:
        """Say why and end the connection. The second time does nothing."""
        if not self.sink.closed:
            _log.info("socket closed", code=code, reason=reason, session=self.session)
        self.sink.close(code, reason, linger)
        self.dispose()

    def dispose(self) -> None:
        """Forget everything: the client has gone."""
        for job_id in list(self.subscriptions):
            self._drop(job_id)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._measurements.clear()
        self.sink.on_drain = None
        self._hub.gone(self)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of a socket failed", session=self.session, exc_info=error)
            self.close(1011, "an error of ours; reconnect and resume")


def _unusable(since: int | None, log: str | None, version: int, current: str) -> str | None:
    """Why a position cannot be resumed from, or None."""
    if log is not None and log != current:
        return "The position counts in another log: a backup was restored since."
    if since is not None and since > version:
        return f"Version {since} is above the workspace's newest, {version}."
    return None
