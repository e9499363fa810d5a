"""Telemetry of one attempt: step metrics, log lines, resource samples. Bounded, batched, and never in training's way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from aiokafka.errors import MessageSizeTooLargeError

from schemas import telemetry
from schemas.telemetry import AnyTelemetry, LogLines, ResourceSample, StepMetrics
from workers.child_messages import Logged, StepMeasured
from workers.process_usage import Usage
from workers.steady_producer import SteadyProducer

FLUSH_SECONDS = 0.1
LINES_HELD = 1000
LINES_A_RECORD = 200
CHARACTERS_A_RECORD = 64 * 1024


class Measurements:
    """Collects what is measured and sends it some times a second. While the log is away, the oldest is left out."""

    def __init__(self, producer: SteadyProducer, topic: str, *, workspace: str, job_id: str, attempt: int) -> None:
        """Nothing is sent before `run`."""
        self._producer = producer
        self._topic = topic
        self._workspace = workspace
        self._job_id = job_id
        self._attempt = attempt
        self._sequence = 0
        self._step: StepMeasured | None = None
        self._usage: Usage | None = None
        self._lines: deque[tuple[str, str]] = deque(maxlen=LINES_HELD)
        self._left_out = 0
        self._something = asyncio.Event()

    def step(self, measured: StepMeasured) -> None:
        """Metrics of a step; the latest wins."""
        self._step = measured
        self._something.set()

    def line(self, logged: Logged) -> None:
        """A line that the training wrote."""
        self._left_out += len(self._lines) == LINES_HELD
        self._lines.append((logged.stream, logged.text))
        self._something.set()

    def usage(self, usage: Usage) -> None:
        """What the training uses; the latest wins."""
        self._usage = usage
        self._something.set()

    async def run(self) -> None:
        """Send for ever; cancel it to end."""
        while True:
            await self._something.wait()
            await self.flush()
            await asyncio.sleep(FLUSH_SECONDS)

    async def flush(self) -> None:
        """Send what there is."""
        self._something.clear()
        for measurement in self._taken():
            value = telemetry.encode(measurement)
            # A recipe with ten thousand metrics a step must not end its own training with them.
            with contextlib.suppress(MessageSizeTooLargeError):
                await self._producer.append(self._topic, key=self._job_id.encode(), value=value)

    def _taken(self) -> Iterator[AnyTelemetry]:
        step, self._step = self._step, None
        if step is not None:
            yield StepMetrics(**self._about(step.time), epoch=step.epoch, step=step.step, metrics=step.metrics)
        usage, self._usage = self._usage, None
        if usage is not None:
            yield ResourceSample(
                **self._about(time.time()),
                cpu_percent=usage.cpu_percent,
                memory_bytes=usage.memory_bytes,
                gpu_percent=usage.gpu_percent,
                gpu_memory_bytes=usage.gpu_memory_bytes,
            )
        while self._lines:
            if self._left_out:
                # In the place of the oldest one: a full deque would drop its newest instead.
                left_out, self._left_out = self._left_out + 1, 0
                self._lines[0] = ("log", f"… {left_out} lines left out: they came faster than they could be sent")
            yield LogLines(**self._about(time.time()), lines=tuple(self._some_lines()))

    def _some_lines(self) -> Iterator[tuple[str, str]]:
        lines = characters = 0
        while self._lines and lines < LINES_A_RECORD and characters < CHARACTERS_A_RECORD:
            stream, text = self._lines.popleft()
            lines, characters = lines + 1, characters + len(text)
            yield stream, text

    def _about(self, seconds: float) -> dict[str, Any]:
        self._sequence += 1
        return {
            "workspace": self._workspace,
            "job_id": self._job_id,
            "attempt": self._attempt,
            "sequence": self._sequence,
            "at": int(seconds * 1000),
        }
