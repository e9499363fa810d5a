"""Telemetry on its way to clients: of each job the newest, a few times a second. It has no version and is never resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from api.live import messages
from schemas.telemetry import AnyTelemetry, LogLines, ResourceSample, StepMetrics

if TYPE_CHECKING:
    from api.live.channel import Channel
    from api.live.connection import Connection

INTERVAL_SECONDS = 0.2
"""Between two measurements of one job."""


class _Newest:
    """What was measured last of one job's newest attempt."""

    __slots__ = ("at", "attempt", "due", "epoch", "metrics", "resources", "sent_at", "sequence", "step")

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.sequence = -1
        self.at = 0
        self.epoch: int | None = None
        self.step: int | None = None
        self.metrics: Mapping[str, float | None] = {}
        self.resources: Mapping[str, float | None] = {}
        self.sent_at = float("-inf")
        self.due: asyncio.TimerHandle | None = None


class Measurements:
    """The newest measurement of every job of one workspace that somebody listens to."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._newest: dict[str, _Newest] = {}

    def arrived(self, measured: AnyTelemetry) -> None:
        """One record; late and repeated ones are known by their number."""
        job_id = measured.job_id
        if not self._channel.listeners(job_id):
            return
        newest = self._newest.get(job_id)
        if newest is None or newest.attempt < measured.attempt:
            if newest and newest.due:
                newest.due.cancel()
            newest = self._newest[job_id] = _Newest(measured.attempt)
        if newest.attempt > measured.attempt or measured.sequence <= newest.sequence:
            return
        newest.sequence = measured.sequence
        if isinstance(measured, LogLines):
            self._lines(measured)
            return
        newest.at = measured.at
        if isinstance(measured, StepMetrics):
            newest.epoch, newest.step, newest.metrics = measured.epoch, measured.step, measured.metrics
        else:
            newest.resources = _resources(measured)
        if newest.due is None:
            loop = asyncio.get_running_loop()
            wait = newest.sent_at + INTERVAL_SECONDS - loop.time()
            if wait <= 0:
                self._send(job_id)
            else:
                newest.due = loop.call_later(wait, self._send, job_id)

    def welcome(self, connection: Connection, job_id: str | None) -> None:
        """Somebody new listens: tell the newest that is known."""
        if job_id is not None and (newest := self._newest.get(job_id)) and newest.sent_at > float("-inf"):
            connection.push_measurement(job_id, _frame(job_id, newest))

    def _send(self, job_id: str) -> None:
        newest = self._newest[job_id]
        newest.due = None
        listeners = self._channel.listeners(job_id)
        if not listeners:
            del self._newest[job_id]
            return
        newest.sent_at = asyncio.get_running_loop().time()
        frame = _frame(job_id, newest)
        for connection in list(listeners):
            connection.push_measurement(job_id, frame)

    def _lines(self, measured: LogLines) -> None:
        frame = b""
        for connection, subscription in list(self._channel.listeners(measured.job_id).items()):
            everything = self._channel.everything.get(connection)
            if subscription.lines or (everything is not None and everything.lines):
                frame = frame or messages.frame(
                    messages.Lines(
                        job_id=measured.job_id,
                        attempt=measured.attempt,
                        sequence=measured.sequence,
                        lines=measured.lines,
                    )
                )
                connection.push_lines(frame)

    def forget(self) -> None:
        """Drop what nobody listens to any more."""
        for job_id in [job_id for job_id in self._newest if not self._channel.listeners(job_id)]:
            if due := self._newest.pop(job_id).due:
                due.cancel()


def _frame(job_id: str, newest: _Newest) -> bytes:
    return messages.frame(
        messages.Metrics(
            job_id=job_id,
            attempt=newest.attempt,
            at=newest.at,
            epoch=newest.epoch,
            step=newest.step,
            metrics=newest.metrics,
            resources=newest.resources,
        )
    )


def _resources(sample: ResourceSample) -> dict[str, float | None]:
    return {
        "cpu_percent": sample.cpu_percent,
        "memory_bytes": sample.memory_bytes,
        "gpu_percent": sample.gpu_percent,
        "gpu_memory_bytes": sample.gpu_memory_bytes,
    }
