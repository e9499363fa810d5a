"""Listens to a training child until its last word: what it says becomes records, telemetry and kept lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from domain.events import CheckpointSaved, EpochCompleted
from workers.attempt_records import AttemptRecords, UnusableReport
from workers.child_messages import (
    CheckpointWritten,
    EpochDone,
    Failed,
    Left,
    Logged,
    ModelWritten,
    Prepared,
    StepMeasured,
    ToWorker,
)
from workers.child_process import Ended
from workers.endings import LastWord
from workers.last_words import LastWords
from workers.measurements import Measurements
from workers.surroundings import Child

LAST_LINES_SECONDS = 5.0
"""How long a child that has failed may take to end, and to say its last lines."""
SAY_EPOCHS_EVERY = 5.0


class ChildReports:
    """The reports of one attempt. While too many records wait for the log, it stops listening, and the child waits."""

    def __init__(
        self,
        attempt: int,
        worker: str,
        epochs: int,
        records: AttemptRecords,
        measurements: Measurements,
        saved: Callable[[CheckpointSaved], None],
    ) -> None:
        """`epochs` is how many there will be, for whoever reads the log lines; `saved` hears of each checkpoint."""
        self._attempt = attempt
        self._worker = worker
        self._epochs = epochs
        self._records = records
        self._measurements = measurements
        self._saved = saved
        self._said_epoch_at = 0.0
        self._log = structlog.get_logger("worker").bind(attempt=attempt)
        self.words = LastWords()
        self.heard_all = asyncio.Event()
        """Set when the child has said its last word, or is gone."""

    async def listen(self, child: Child, job_id: str) -> tuple[LastWord | None, Ended | None]:
        """The child's last word, and how it ended where that is to be told."""
        self._log = self._log.bind(job=job_id)
        said: LastWord | None = None
        while said is None and (message := await child.receive()) is not None:
            match message:
                case ModelWritten() | Failed() | Left():
                    said = message
                case _:
                    said = await self._reported(message)
        if isinstance(said, Failed) and said.code == "unusable_report":
            child.kill()
        self.heard_all.set()
        wants_to_know = said is None or isinstance(said, Failed)
        return said, await self._last_lines(child) if wants_to_know else None

    async def _reported(self, message: ToWorker) -> Failed | None:
        try:
            await self._relay(message)
        except UnusableReport as error:
            return Failed(code="unusable_report", exception=type(error).__name__, text=str(error))
        return None

    async def _last_lines(self, child: Child) -> Ended | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES_SECONDS):
                while (message := await child.receive()) is not None:
                    if isinstance(message, Logged):
                        await self._relay(message)
                return await child.wait()
        return None

    async def _relay(self, message: ToWorker) -> None:
        match message:
            case EpochDone():
                self._say_epoch(message)
                done = EpochCompleted(
                    attempt=self._attempt,
                    worker=self._worker,
                    epoch=message.epoch,
                    metrics=message.metrics,
                    seconds=message.seconds,
                )
                await self._records.put(done)
            case CheckpointWritten():
                saved = CheckpointSaved(
                    attempt=self._attempt,
                    worker=self._worker,
                    epoch=message.epoch,
                    step=message.step,
                    uri=message.uri,
                    sha256=message.sha256,
                    best=message.best,
                )
                self._saved(saved)
                await self._records.put(saved)
            case StepMeasured():
                self._measurements.step(message)
            case Logged():
                self.words.add(message)
                self._measurements.line(message)
            case Prepared():
                self._log.debug("prepared")

    def _say_epoch(self, done: EpochDone) -> None:
        if time.monotonic() - self._said_epoch_at >= SAY_EPOCHS_EVERY:
            self._said_epoch_at = time.monotonic()
            self._log.info("epoch done", epoch=done.epoch, epochs=self._epochs, loss=done.metrics.get("loss"))
