"""One attempt at a job, from the claim to the record that ends it: what the child says becomes records, in order.

The worker shows it every row of its job. The rows alone tell whether the attempt is granted, what is wanted of it, and
whether it is over; a child trains only while the newest row shows the attempt as this worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from domain.events import AttemptEvent, AttemptLost, AttemptStarted, Checkpoint, JobFailed
from domain.job import Job
from workers import endings
from workers.attempt_records import AttemptRecords
from workers.checkpoint_janitor import CheckpointJanitor, newest_present
from workers.child_messages import Failed, Go, Leave, Train
from workers.child_reports import ChildReports
from workers.endings import Ending
from workers.measurements import Measurements
from workers.process_usage import ProcessUsage
from workers.standing import Standing, standing
from workers.surroundings import Child, Surroundings
from workers.trainer_note import new_scratch, remove_scratch

CHILD_SECONDS = 60.0
"""How long a child may take to be there; normally one waits."""
GOES_BY_ITSELF = 1.0
"""How long a child may live on after its last word."""
DIES_IN = 10.0
"""How long a killed process may take to be gone, and its device free."""
SHOWN_BEFORE_TOLD = 2.0
"""How long the acknowledgement of the end may come after the table shows it."""
USAGE_SECONDS = 2.0
TIDIES_UP_FOR = 5.0
"""How long the next job may wait for checkpoints to be deleted that nobody needs."""


class Attempt:
    """Runs once. `run` returns when the attempt is over for this worker, and its child is gone."""

    def __init__(self, around: Surroundings, workspace: str, job: Job, number: int) -> None:
        """A claim on `job`, whose row shows it queued (or, `run(granted=True)`, already ours)."""
        self.job_id = job.id
        self.number = number
        self.start: Checkpoint | None = None
        self._around = around
        self.workspace = workspace
        self._job = job
        self._version = -1
        self._records = AttemptRecords(
            around.log, around.events_topic, workspace=workspace, job_id=job.id, actor=around.worker
        )
        self._measurements = Measurements(
            around.measurements, around.telemetry_topic, workspace=workspace, job_id=job.id, attempt=number
        )
        self._janitor = CheckpointJanitor(around.store, job.id)
        self._reports = ChildReports(
            number, around.worker, job.spec.epochs, self._records, self._measurements, self._janitor.report
        )
        self._child: Child | None = None
        self._scratch: Path | None = None
        self._claimed_at: float | None = None
        """When the claim was acknowledged; None until then."""
        self._giving_up = asyncio.Event()
        self.is_given_up = False
        """Whether the claim was given back before anybody answered it."""
        self._granted = asyncio.Event()
        self._over = asyncio.Event()
        self._leaving = asyncio.Event()
        self._grace = around.grace_seconds
        self._gone = False
        self._ending: AttemptEvent | None = None
        self._tasks: set[asyncio.Task[None]] = set()
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
            case Standing.OPEN if self._granted.is_set() or (repeated and self._claimed_at is not None):
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
        unwanted = self._janitor.see(job)
        if first and self.number > 1:
            self._spawn(self._janitor.sweep(job))
        if unwanted:
            self._spawn(self._janitor.work_off())

    def hand_back(self, grace: float) -> None:
        """The worker leaves: save a checkpoint within `grace` seconds and give the attempt back."""
        self._grace = min(self._grace, grace)
        self._leaving.set()

    def give_up_claim(self) -> None:
        """Nobody answers the claim, and there is other work: take it back, unless it has been answered by now."""
        self._giving_up.set()

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
    def unanswered_seconds(self) -> float:
        """How long the claim has been in the log without an answer; 0 before that, and once it is answered."""
        if self._claimed_at is None or self._granted.is_set():
            return 0.0
        return time.monotonic() - self._claimed_at

    @property
    def has_ended(self) -> bool:
        """Whether the record that ends it is in the log."""
        return self._gone

    # --- the attempt -------------------------------------------------------------------------------------------------

    async def run(self, *, granted: bool = False) -> None:
        """Claim (unless it is granted already), train, report the end. Returns early when the attempt is lost."""
        working = asyncio.create_task(self._work(granted))
        over = asyncio.create_task(self._over.wait())
        giving_up = asyncio.create_task(self._giving_up.wait())
        try:
            await asyncio.wait({working, over, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if not (working.done() or over.done() or self._granted.is_set()):
                await self._take_back(working)
                return
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and self._ending is not None:
                # The table shows the end that we have just reported before we are told that it arrived.
                await asyncio.wait({working}, timeout=SHOWN_BEFORE_TOLD)
            if working.done():
                working.result()
            else:
                self._say_lost()
        finally:
            for task in (working, over, giving_up, *self._tasks):
                task.cancel()
            await asyncio.gather(working, over, giving_up, *self._tasks, return_exceptions=True)
            await self._clear_up()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIDIES_UP_FOR):
                    await self._janitor.work_off()

    async def _work(self, granted: bool) -> None:
        self._spawn(self._records.run())
        if not granted:
            saved = await newest_present(self._around.store, self._job) if self._job.checkpoints else None
            self.start = saved.checkpoint if saved is not None else None
            self._spawn(self._claim())
        self._scratch = new_scratch(self._around.state)
        await self._end(await self._train(self._scratch))
        await self._clear_up()
        if self.number > 1:
            # The holder before us may have been alive for a while, and saving, after it was given up on.
            await self._janitor.sweep(self._job)

    async def _claim(self) -> None:
        claim = await self._records.put(
            AttemptStarted(attempt=self.number, worker=self._around.worker, checkpoint=self.start)
        )
        await self._records.flush()
        self._claimed_at = time.monotonic()
        self._log.debug("claimed")
        while not (self._granted.is_set() or self._giving_up.is_set()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * self._around.lease_seconds):
                    await self._granted.wait()
                return
            # An answer may have been lost with the projector that gave it. A claim again refused is answered again.
            self._records.repeat(claim)

    async def _take_back(self, working: asyncio.Task[None]) -> None:
        """Write the attempt's end behind its claim. Once that is in the log this worker is free, whatever the claim comes
        to: it is refused, or the attempt that it begins is over with the next record that counts."""
        self.is_given_up = True
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await self._records.put(AttemptLost(attempt=self.number, worker=self._around.worker, reason="released"))
        await self._records.flush()
        self._log.warning("nobody answers the claim; it is taken back", seconds=round(self.unanswered_seconds, 1))

    async def _train(self, scratch: Path) -> Ending:
        try:
            async with asyncio.timeout(CHILD_SECONDS):
                child = self._child = await self._around.children.take()
        except TimeoutError:
            await self._granted.wait()
            nobody = Failed(code="no_child", exception=None, text="no training process could be started")
            return Ending(said=nobody, ended=None, told_to_leave=False)
        self._spawn(self._watch(child.pid))
        await child.send(self._order(scratch))
        listening = asyncio.create_task(self._reports.listen(child, self.job_id))
        try:
            await self._granted.wait()
            self._spawn(self._measurements.run())
            if self._leaving.is_set() and not listening.done():
                child.kill()
                return Ending(said=None, ended=None, told_to_leave=True)
            if not listening.done():  # Else it could not even prepare.
                await self._let_go(child)
            said, ended = await listening
            return Ending(said=said, ended=ended, told_to_leave=self._leaving.is_set())
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _let_go(self, child: Child) -> None:
        await child.send(Go())
        spec = self._job.spec
        self._log.info("training", name=spec.name, recipe=spec.recipe, after_epoch=self._job.epoch)
        with contextlib.suppress(OSError):
            self._around.note.write(child.pid, self.job_id)
        self._spawn(self._usher_out(child))

    async def _usher_out(self, child: Child) -> None:
        await self._leaving.wait()
        await child.send(Leave())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                await self._reports.heard_all.wait()
            return
        self._log.warning("the training did not leave in time and is killed", grace_seconds=self._grace)
        child.kill()

    async def _end(self, ending: Ending) -> None:
        """Report how it ended; returns when the log has it."""
        log = None
        if ending.is_bad:
            words = self._reports.words
            log = await words.keep(self._around.store, f"jobs/{self.job_id}/{self.number}", words.text(ending))
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

    # --- around it ---------------------------------------------------------------------------------------------------

    def _order(self, scratch: Path) -> Train:
        spec = self._job.spec
        return Train(
            workspace=self.workspace,
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

    async def _clear_up(self) -> None:
        """The device is free when this returns: whatever the child still did, it is killed. And its files are gone.

        It may be cut short, when the table shows the end before we are told; so nothing is forgotten before it is done, and
        `run` calls it again.
        """
        if self._child is not None:
            await self._release(self._child)
            self._child = None
        if self._scratch is not None:
            await asyncio.to_thread(remove_scratch, self._scratch)
            self._scratch = None

    async def _release(self, child: Child) -> None:
        self._around.note.remove()
        try:
            if self._ending is not None:
                # It has said its last word, as a rule, and goes by itself.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GOES_BY_ITSELF):
                        await child.wait()
        finally:
            child.kill()
        try:
            async with asyncio.timeout(DIES_IN):
                await child.wait()
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
