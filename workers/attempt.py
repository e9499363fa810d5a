"""One attempt at a job, from the claim to the record that ends it: what the child says becomes records, in order.

The worker shows it every row of its job. The rows alone tell whether the attempt is granted, what is wanted of it, and
whether it is over; a child trains only while the newest row shows the attempt as this worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from adapters.object_store import ObjectStore
from domain.events import (
    AttemptEvent,
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    EpochCompleted,
    JobFailed,
)
from domain.job import Job
from workers import endings
from workers.attempt_records import AttemptRecords, UnusableReport
from workers.checkpoint_janitor import CheckpointJanitor, newest_present
from workers.child_messages import (
    CheckpointWritten,
    EpochDone,
    Failed,
    Go,
    Leave,
    Left,
    Logged,
    ModelWritten,
    Prepared,
    StepMeasured,
    ToChild,
    ToWorker,
    Train,
)
from workers.child_process import Ended
from workers.devices import Devices
from workers.endings import Ending
from workers.last_words import LastWords
from workers.measurements import Measurements
from workers.process_usage import ProcessUsage
from workers.standing import Standing, standing
from workers.steady_producer import SteadyProducer
from workers.trainer_note import TrainerNote, new_scratch, remove_scratch

CHILD_SECONDS = 60.0
"""How long a child may take to be there; normally one waits."""
LAST_WORD_SECONDS = 5.0
"""How long a child may live on after its last word."""
USAGE_SECONDS = 2.0
SAY_EPOCHS_EVERY = 5.0


class Child(Protocol):
    """A training child; `workers.warm_child` has the real one."""

    pid: int

    async def send(self, message: ToChild) -> None:
        """Say something to it."""

    async def receive(self) -> ToWorker | None:
        """What it says; None once it is gone."""

    def kill(self) -> None:
        """End it at once."""

    async def wait(self) -> Ended:
        """How it ended."""

    async def close(self) -> None:
        """Drop the connection."""


class Children(Protocol):
    """Where children come from."""

    async def start(self) -> None:
        """Begin to have some."""

    async def until_waiting(self) -> None:
        """Return once one waits."""

    async def take(self) -> Child:
        """One that waits for its job."""

    async def close(self) -> None:
        """End them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an attempt works with; the worker's own, the same for all its attempts."""

    worker: str
    children: Children
    log: SteadyProducer
    events_topic: str
    measurements: SteadyProducer
    telemetry_topic: str
    store: ObjectStore
    store_url: str
    devices: Devices
    note: TrainerNote
    state: Path | None
    device: str | None
    threads: int
    lease_seconds: float
    grace_seconds: float


class Attempt:
    """Runs once. `run` returns when the attempt is over for this worker, and its child is gone."""

    def __init__(self, around: Surroundings, workspace: str, job: Job, number: int) -> None:
        """A claim on `job`, whose row shows it queued (or, `run(granted=True)`, already ours)."""
        self.job_id = job.id
        self.number = number
        self.start: Checkpoint | None = None
        self._around = around
        self._workspace = workspace
        self._job = job
        self._version = -1
        self._records = AttemptRecords(
            around.log, around.events_topic, workspace=workspace, job_id=job.id, actor=around.worker
        )
        self._measurements = Measurements(
            around.measurements, around.telemetry_topic, workspace=workspace, job_id=job.id, attempt=number
        )
        self._janitor = CheckpointJanitor(around.store, job.id)
        self._words = LastWords()
        self._child: Child | None = None
        self._claimed = False
        self._granted = asyncio.Event()
        self._over = asyncio.Event()
        self._leaving = asyncio.Event()
        self._heard_all = asyncio.Event()
        self._grace = around.grace_seconds
        self._gone = False
        self._ending: AttemptEvent | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._said_epoch_at = 0.0
        self._log = structlog.get_logger("worker").bind(job=job.id, attempt=number)

    # --- what the worker tells it ------------------------------------------------------------------------------------

    def see(self, job: Job | None, version: int) -> None:
        """The newest row of the job, each time one arrives; None for a tombstone."""
        repeated, self._version = version == self._version, version
        match standing(job, self._around.worker, self.number):
            case Standing.HELD:
                assert job is not None
                self._see_held(job)
            case Standing.OVER:
                self._over.set()
            case Standing.OPEN if self._granted.is_set() or (repeated and self._claimed):
                # The same row once more, after the claim was in the log: that is how the projector answers a refused one.
                self._over.set()
            case Standing.OPEN:
                assert job is not None
                self._job = job

    def _see_held(self, job: Job) -> None:
        first = not self._granted.is_set()
        self._job = job
        if job.wanted is not None and not self._leaving.is_set():
            self._log.info("told to leave the job", wanted=job.wanted)
            self._leaving.set()
        self._granted.set()
        unwanted = [saved.checkpoint.uri for saved in self._janitor.see(job)]
        if first and self.number > 1:
            self._spawn(self._janitor.sweep(job))
        if unwanted:
            self._spawn(self._janitor.delete(unwanted))

    def hand_back(self, grace: float) -> None:
        """The worker leaves: save a checkpoint within `grace` seconds and give the attempt back."""
        self._grace = min(self._grace, grace)
        self._leaving.set()

    def hold(self) -> None:
        """Report nothing until it is known again whose the attempt is."""
        self._records.hold()

    def go_on(self) -> None:
        """It still is this worker's, as far as the table shows."""
        self._records.go_on()

    @property
    def is_granted(self) -> bool:
        """Whether the table has shown the attempt as this worker's."""
        return self._granted.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether the record that ends it is in the log."""
        return self._gone

    # --- the attempt -------------------------------------------------------------------------------------------------

    async def run(self, *, granted: bool = False) -> None:
        """Claim (unless it is granted already), train, report the end. Returns early when the attempt is lost."""
        working = asyncio.create_task(self._work(granted))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and self._ending is not None:
                # The table shows the end that we have just reported before we are told that it arrived.
                await asyncio.wait({working}, timeout=2)
            if working.done():
                working.result()
            else:
                self._say_lost()
        finally:
            for task in (working, over, *self._tasks):
                task.cancel()
            await asyncio.gather(working, over, *self._tasks, return_exceptions=True)
            await self._release_child()

    async def _work(self, granted: bool) -> None:
        self._spawn(self._records.run())
        if not granted:
            saved = await newest_present(self._around.store, self._job) if self._job.checkpoints else None
            self.start = saved.checkpoint if saved is not None else None
            self._spawn(self._claim())
        scratch = new_scratch(self._around.state)
        try:
            await self._end(await self._train(scratch))
        finally:
            await self._release_child()
            await asyncio.to_thread(remove_scratch, scratch)

    async def _claim(self) -> None:
        claim = await self._records.put(
            AttemptStarted(attempt=self.number, worker=self._around.worker, checkpoint=self.start)
        )
        await self._records.flush()
        self._claimed = True
        self._log.debug("claimed")
        while not self._granted.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._granted.wait(), 2 * self._around.lease_seconds)
                return
            # An answer may have been lost with the projector that gave it. A claim again refused is answered again.
            self._records.repeat(claim)

    async def _train(self, scratch: Path) -> Ending:
        try:
            async with asyncio.timeout(CHILD_SECONDS):
                child = self._child = await self._around.children.take()
        except TimeoutError:
            await self._granted.wait()
            said = Failed(code="no_child", exception=None, text="no training process could be started")
            return Ending(said=said, ended=None, told_to_leave=False)
        self._spawn(self._watch(child.pid))
        await child.send(self._order(scratch))
        listening = asyncio.create_task(self._listen(child))
        try:
            await self._granted.wait()
            self._spawn(self._measurements.run())
            if listening.done():
                return await listening  # It could not even prepare.
            if self._leaving.is_set():
                child.kill()
                return Ending(said=None, ended=None, told_to_leave=True)
            await child.send(Go())
            self._log.info(
                "training", name=self._job.spec.name, recipe=self._job.spec.recipe, after_epoch=self._job.epoch
            )
            with contextlib.suppress(OSError):
                self._around.note.write(child.pid, self.job_id)
            self._spawn(self._usher_out(child))
            return await listening
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def _usher_out(self, child: Child) -> None:
        await self._leaving.wait()
        await child.send(Leave())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard_all.wait(), self._grace)
            return
        self._log.warning("the training did not leave in time and is killed", grace_seconds=self._grace)
        child.kill()

    async def _listen(self, child: Child) -> Ending:
        """Relay what the child says until its last word."""
        said: ModelWritten | Failed | Left | None = None
        while said is None and (message := await child.receive()) is not None:
            match message:
                case ModelWritten() | Failed() | Left():
                    said = message
                case _:
                    try:
                        await self._relay(message)
                    except UnusableReport as error:
                        said = Failed(code="unusable_report", exception=type(error).__name__, text=str(error))
                        child.kill()
        self._heard_all.set()
        ended = await self._last_lines(child) if said is None or isinstance(said, Failed) else None
        return Ending(said=said, ended=ended, told_to_leave=self._leaving.is_set())

    async def _last_lines(self, child: Child) -> Ended | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                while (message := await child.receive()) is not None:
                    if isinstance(message, Logged):
                        await self._relay(message)
                return await child.wait()
        return None

    async def _relay(self, message: ToWorker) -> None:
        attempt, worker = self.number, self._around.worker
        match message:
            case EpochDone(epoch=epoch, metrics=metrics, seconds=seconds):
                self._say_epoch(epoch, metrics.get("loss"))
                await self._records.put(
                    EpochCompleted(attempt=attempt, worker=worker, epoch=epoch, metrics=metrics, seconds=seconds)
                )
            case CheckpointWritten(epoch=epoch, step=step, uri=uri, sha256=sha256, best=best):
                await self._records.put(
                    CheckpointSaved(
                        attempt=attempt, worker=worker, epoch=epoch, step=step, uri=uri, sha256=sha256, best=best
                    )
                )
            case StepMeasured():
                self._measurements.step(message)
            case Logged():
                self._words.add(message)
                self._measurements.line(message)
            case Prepared():
                self._log.debug("prepared")

    async def _end(self, ending: Ending) -> None:
        """Report how it ended; returns when the log has it."""
        log = None
        if ending.is_bad:
            said = ending.said if isinstance(ending.said, Failed) else None
            text = self._words.text(said, _how(ending.ended))
            log = await self._words.keep(self._around.store, f"jobs/{self.job_id}/{self.number}", text)
        # All that went before counts first; and what is wanted may change until the end is written.
        await self._records.flush()
        self._ending = endings.record_of(
            ending,
            attempt=self.number,
            worker=self._around.worker,
            model=self._job.spec.model,
            wanted=self._job.wanted,
            start=self.start,
            log=log,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._measurements.flush()
        await self._records.put(self._ending)
        await self._records.flush()
        self._gone = True
        self._say_ended(self._ending)
        if self.number > 1:
            # The holder before us may have been alive for a while, and saving, after it was given up on.
            await self._janitor.sweep(self._job)

    # --- around it ---------------------------------------------------------------------------------------------------

    def _order(self, scratch: Path) -> Train:
        spec = self._job.spec
        return Train(
            workspace=self._workspace,
            job_id=self.job_id,
            attempt=self.number,
            recipe=spec.recipe,
            recipe_version=spec.recipe_version,
            parameters=spec.parameters,
            epochs=spec.epochs,
            dataset=spec.dataset,
            checkpoint=self.start,
            store_url=self._around.store_url,
            scratch=str(scratch),
            device=self._around.device,
            threads=self._around.threads,
        )

    async def _watch(self, pid: int) -> None:
        usage = ProcessUsage(pid, self._around.devices)
        while (sample := usage.sample()) is not None:
            if self._granted.is_set():
                self._measurements.usage(sample)
            await asyncio.sleep(USAGE_SECONDS)

    async def _release_child(self) -> None:
        """The device is free when this returns: whatever the child still did, it is killed."""
        child, self._child = self._child, None
        if child is None:
            return
        self._around.note.remove()
        if self._ending is not None:
            # It has said its last word, as a rule, and goes by itself.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), 1.0)
        child.kill()
        try:
            await asyncio.wait_for(child.wait(), 2 * LAST_WORD_SECONDS)
        except TimeoutError:
            self._log.error("the training process cannot be killed", pid=child.pid)
        await child.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a part of the attempt failed", exc_info=error)

    def _say_epoch(self, epoch: int, loss: float | None) -> None:
        if time.monotonic() - self._said_epoch_at >= SAY_EPOCHS_EVERY:
            self._said_epoch_at = time.monotonic()
            self._log.info("epoch done", epoch=epoch, epochs=self._job.spec.epochs, loss=loss)

    def _say_lost(self) -> None:
        if self._ending is not None:
            self._say_ended(self._ending)
        elif self._granted.is_set():
            self._log.warning("the attempt is not ours any more; its training is stopped")
        else:
            self._log.info("claimed in vain")

    def _say_ended(self, event: AttemptEvent) -> None:
        bad = isinstance(event, JobFailed) or (isinstance(event, AttemptLost) and event.reason != "released")
        say = self._log.warning if bad else self._log.info
        details = {name: value for name in ("reason", "code", "last_epoch") if (value := getattr(event, name, None))}
        say("the attempt has ended", record=type(event).__name__, **details)


def _how(ended: Ended | None) -> str:
    if ended is None:
        return ""
    if ended.signal is not None:
        memory = ", probably for memory" if ended.out_of_memory else ""
        return f"The training process was ended by signal {ended.signal.name}{memory}."
    return f"The training process ended with status {ended.code}."
