"""The worker: claims jobs and trains them, one at a time, as the table of open jobs says.

It reconciles: what the table says it should run, it runs; what it runs that the table does not grant, it stops. Nothing
polls: rows and heartbeats arrive, and each may change what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import structlog
from uuid_utils import uuid7

from adapters.kafka import topic_name
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from domain.events import AttemptLost, Checkpoint
from recipes import catalog
from schemas.heartbeat import Heartbeat, Running
from schemas.topics import EVENTS, HEARTBEATS, JOBS, TELEMETRY
from workers.attempt import Attempt
from workers.attempt_records import AttemptRecords
from workers.claim_choice import Choice, IdleWorker, Opening, choose
from workers.colleagues import BrokerClock, Colleagues
from workers.devices import Devices
from workers.open_jobs import OpenJobs
from workers.pulse import Pulse
from workers.steady_producer import SteadyProducer, quieten_client
from workers.surroundings import Children, Surroundings
from workers.tail import Tail
from workers.trainer_note import TrainerNote, remove_abandoned_scratch
from workers.warm_child import WarmChildren

CHILD_LEAVES_IN = 12.0
"""How long a child may take to save a checkpoint when the worker is told to end."""
UNANSWERED_CLAIM = 3.0
"""How long it waits then for the answer to a claim: an attempt that is granted afterwards is lost to the supervisor."""
WORKER_LEAVES_IN = 17.0
"""How long a worker that is told to end takes at most: less than the 30 s after which `ravand up` kills it."""
REASSERTED_AFTER = 30.0
"""When the table still shows an attempt as ours so long after its end was acknowledged, the end was refused."""
UNANSWERED_LEASES = 2.0
"""A claim that is in the log so many leases without an answer is taken back when there is other work."""
SILENT_LEASES = 10.0
"""So long nothing is claimed in a partition of the log that gave no answer, unless there is news of it."""
CLAIMS_REMEMBERED = 1000


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop` is set; then save a checkpoint, give the attempt back, and say goodbye."""
    quieten_client()
    worker = Worker(settings)
    try:
        await worker.run(stop)
    finally:
        await worker.close()


class Worker:
    """One worker process. Its id is new at every start, so that nobody takes it for the one before."""

    def __init__(self, settings: Settings, children: Children | None = None) -> None:
        """Connects to nothing yet. `children` are real ones unless given."""
        self.id = f"worker-{uuid7()}"
        self._settings = settings
        self._lease = settings.worker.lease_seconds
        self._log = structlog.get_logger("worker")
        self._children: Children = children or WarmChildren()
        self._store = ObjectStore(settings.store.url)
        self._producer = SteadyProducer(settings.kafka)
        # Of its own, so that a burst of measurements is never in front of a record.
        self._measuring = SteadyProducer(settings.kafka)
        self._devices = Devices()
        self._recipes = frozenset((spec.name, spec.version) for spec in catalog.recipes().values())
        self._clock = BrokerClock()
        self._colleagues = Colleagues(self.id, self._lease, self._clock)
        self._open = OpenJobs(self.id, self._now)
        self._jobs = Tail(settings.kafka, JOBS, self._on_rows)
        self._beats = Tail(settings.kafka, HEARTBEATS, self._on_beats)
        self._pulse = Pulse(
            self._measuring,
            topic_name(settings.kafka, HEARTBEATS),
            self._heartbeat,
            interval=self._lease / 5,
            on_frozen=self._on_frozen,
        )
        self._started_at = int(time.time() * 1000)
        self._host = socket.gethostname()
        self._claims: OrderedDict[tuple[str, int], Checkpoint | None] = OrderedDict()
        """What this process has claimed, and from which checkpoint: a grant may come after we gave up on a claim."""
        self._over: dict[tuple[str, int], float] = {}
        """Attempts whose end is in the log, while the table still shows them as ours; and since when."""
        self._given_up: OrderedDict[tuple[str, int], None] = OrderedDict()
        """Claims that were taken back unanswered: the table may show such an attempt as ours for a moment, much later."""
        self._attempt: Attempt | None = None
        self._running: asyncio.Task[None] | None = None
        self._ready = False
        self._leaving = False
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._around = Surroundings(
            worker=self.id,
            children=self._children,
            log=self._producer,
            events_topic=topic_name(settings.kafka, EVENTS),
            measurements=self._measuring,
            telemetry_topic=topic_name(settings.kafka, TELEMETRY),
            store=self._store,
            store_url=settings.store.url,
            devices=self._devices,
            note=TrainerNote(settings.state),
            state=settings.state,
            device=settings.worker.device,
            threads=settings.worker.threads,
            lease_seconds=self._lease,
            grace_seconds=settings.worker.grace_seconds,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Raises what should never happen, so that somebody starts us again."""
        self._log.info(
            "starting", worker=self.id, recipes=sorted(f"{name} {version}" for name, version in self._recipes)
        )
        await asyncio.to_thread(remove_abandoned_scratch, self._settings.state)
        self._devices.start()
        await self._children.start()
        for work in (self._jobs.run(), self._beats.run(), self._pulse.run(), self._get_ready()):
            self._spawn(work)
        stopped = asyncio.create_task(stop.wait())
        either: set[asyncio.Future[Any]] = {stopped, self._failed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        await self._leave()
        if self._failed.done():
            self._failed.result()

    async def close(self) -> None:
        """Let go of everything; what is not acknowledged by now is given up."""
        if self._alarm is not None:
            self._alarm.cancel()
        tasks = [*self._tasks, *([self._running] if self._running is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._failed.done():
            self._failed.cancel()
        await self._children.close()
        await asyncio.gather(self._producer.close(), self._measuring.close())
        self._devices.stop()
        # A disk that hangs must not keep us.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._store.close()

    # --- what arrives ------------------------------------------------------------------------------------------------

    def _on_rows(self, records: Sequence[Any]) -> None:
        for job_id in self._open.apply(records):
            if self._attempt is not None and self._attempt.job_id == job_id:
                self._attempt.see(self._open.job(job_id), self._open.version_of(job_id))
        self._reconcile()

    def _on_beats(self, records: Sequence[Any]) -> None:
        if self._colleagues.apply(records):
            self._reconcile()

    def _on_frozen(self, seconds: float) -> None:
        if self._attempt is not None:
            self._log.warning(
                "did not run for a while; looking whether the attempt is still ours", seconds=round(seconds, 1)
            )
            self._spawn(self._look_again(self._attempt))

    async def _look_again(self, attempt: Attempt) -> None:
        attempt.hold()
        await self._jobs.sync()
        attempt.go_on()

    async def _get_ready(self) -> None:
        await self._producer.connect()
        await asyncio.gather(self._jobs.caught_up.wait(), self._beats.caught_up.wait())
        # Torch takes seconds to load. Until then others, that are warm, should have the jobs.
        await self._children.until_waiting()
        self._ready = True
        self._pulse.soon()
        self._log.info("ready", open_jobs=len(self._open))
        self._reconcile()

    # --- what to do about it -----------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        if self._leaving:
            return
        self._see_to_grants()
        if self._attempt is not None:
            self._see_to_claim(self._attempt)
        elif self._may_claim():
            self._claim_next()

    def _see_to_grants(self) -> None:
        """Every attempt that the table shows as ours is run, or given back."""
        self._over = {key: at for key, at in self._over.items() if key in self._open.ours}
        for job_id, attempt in sorted(self._open.ours):
            if self._attempt is not None and (self._attempt.job_id, self._attempt.number) == (job_id, attempt):
                continue
            since = self._over.get((job_id, attempt))
            if since is None and (job_id, attempt) in self._given_up:
                self._note_over((job_id, attempt))  # Its end is in the log too, and shows in a moment.
            elif since is None and self._attempt is None:
                self._begin(job_id, attempt, granted=True)
            elif since is None or time.monotonic() - since > REASSERTED_AFTER:
                self._begin_giving_back(job_id, attempt)

    def _see_to_claim(self, attempt: Attempt) -> None:
        """Where a projector stands still, claims get no answer; that must not keep us from work that others judge."""
        if attempt.unanswered_seconds < UNANSWERED_LEASES * self._lease:
            return
        openings = self._open.openings(self._colleagues.claiming(), elsewhere=attempt.workspace)
        if openings and self._choose(openings).job_id is not None:
            attempt.give_up_claim()

    def _note_over(self, key: tuple[str, int]) -> None:
        self._over[key] = time.monotonic()
        asyncio.get_running_loop().call_later(REASSERTED_AFTER + 0.1, self._reconcile)

    def _begin_giving_back(self, job_id: str, attempt: int) -> None:
        self._over[job_id, attempt] = float("inf")  # Once is enough: the order of the log decides.
        self._spawn(self._give_back(job_id, attempt))

    def _may_claim(self) -> bool:
        return self._ready and self._colleagues.own_sequence > 0

    def _claim_next(self) -> None:
        openings = self._open.openings(self._colleagues.claiming())
        if not openings:
            return
        choice = self._choose(openings)
        job = self._open.job(choice.job_id) if choice.job_id is not None else None
        if job is not None:
            self._begin(job.id, job.attempt + 1, granted=False)
        elif choice.again_at is not None:
            self._wake_at(choice.again_at)

    def _choose(self, openings: Sequence[Opening]) -> Choice:
        idle = [*self._colleagues.idle(self._open.holding()), IdleWorker(self.id, self._recipes)]
        return choose(openings, idle, self.id, self._now())

    def _begin(self, job_id: str, number: int, *, granted: bool) -> None:
        row = self._open.row(job_id)
        assert row is not None
        attempt = self._attempt = Attempt(self._around, row.value.workspace, row.value.job, number)
        if granted:
            attempt.start = self._claims.get((job_id, number))
        attempt.see(row.value.job, row.version)
        self._running = asyncio.create_task(self._run_attempt(attempt, granted))
        self._pulse.soon()

    async def _run_attempt(self, attempt: Attempt, granted: bool) -> None:
        failed = False
        try:
            await attempt.run(granted=granted)
        except OSError as error:  # A full disk, say, or no descriptor left: nothing that anybody here did wrong.
            failed = True
            self._log.error(
                "this machine cannot make the attempt now; it is tried again, here or on another one",
                job=attempt.job_id,
                attempt=attempt.number,
                error=str(error),
            )
        except Exception:
            failed = True
            self._log.exception("an attempt failed in the worker itself", job=attempt.job_id, attempt=attempt.number)
        finally:
            self._after(attempt, failed)

    def _after(self, attempt: Attempt, failed: bool) -> None:
        key = (attempt.job_id, attempt.number)
        if failed:  # Not begun again here at once, but given back, with a backoff.
            self._begin_giving_back(*key)
        self._claims[key] = attempt.start
        while len(self._claims) > CLAIMS_REMEMBERED:
            self._claims.popitem(last=False)
        if attempt.has_ended:
            self._note_over(key)
        if attempt.is_given_up:
            self._after_silence(attempt, key)
        elif not attempt.is_granted:
            self._open.claimed_in_vain(attempt.job_id)
            asyncio.get_running_loop().call_later(self._lease, self._try_again, attempt.job_id)
        self._attempt = self._running = None
        self._pulse.soon()
        asyncio.get_running_loop().call_soon(self._reconcile)

    def _after_silence(self, attempt: Attempt, key: tuple[str, int]) -> None:
        self._given_up[key] = None
        while len(self._given_up) > CLAIMS_REMEMBERED:
            self._given_up.popitem(last=False)
        self._open.taken_back(attempt.workspace, attempt.job_id)
        asyncio.get_running_loop().call_later(
            SILENT_LEASES * self._lease, self._listen_again, attempt.workspace, attempt.job_id
        )

    def _listen_again(self, workspace: str, job_id: str) -> None:
        self._open.listen_again(workspace, job_id)
        self._reconcile()

    def _try_again(self, job_id: str) -> None:
        self._open.try_again(job_id)
        self._reconcile()

    async def _give_back(self, job_id: str, number: int) -> None:
        row = self._open.row(job_id)
        if row is None:
            return
        self._log.warning("giving back an attempt that the table shows as ours", job=job_id, attempt=number)
        records = AttemptRecords(
            self._producer, self._around.events_topic, workspace=row.value.workspace, job_id=job_id, actor=self.id
        )
        await records.append(AttemptLost(attempt=number, worker=self.id, reason="released"))

    def _wake_at(self, at: int) -> None:
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_later(max(0.0, (at - self._now()) / 1000) + 0.001, self._reconcile)

    def _now(self) -> int:
        """The broker's time in milliseconds; 0 until it is known, when nothing is claimed anyway."""
        return self._clock.now() if self._clock.is_set else 0

    # --- saying who we are, and leaving ------------------------------------------------------------------------------

    def _heartbeat(self, sequence: int) -> Heartbeat:
        return Heartbeat(
            id=self.id,
            kind="worker",
            state=self._state(),
            sequence=sequence,
            started_at=self._started_at,
            recipes=tuple(sorted(self._recipes)),
            running=Running(job_id=self._attempt.job_id, attempt=self._attempt.number) if self._attempt else None,
            devices=self._devices.readings,
            host=self._host,
        )

    def _state(self) -> Any:
        if self._leaving:
            return "leaving" if self._attempt is not None else "gone"
        if self._attempt is not None:
            return "busy"
        return "idle" if self._ready else "starting"

    async def _leave(self) -> None:
        self._leaving = True
        deadline = time.monotonic() + WORKER_LEAVES_IN
        if self._attempt is not None and self._running is not None:
            self._log.info("leaving: the job is saved and handed back", job=self._attempt.job_id)
            self._pulse.soon()
            await self._hand_back(self._attempt, self._running)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.5, min(2.0, deadline - time.monotonic()))):
                await self._pulse.beat()
        self._log.info("gone", worker=self.id)

    async def _hand_back(self, attempt: Attempt, running: asyncio.Task[None]) -> None:
        attempt.hand_back(CHILD_LEAVES_IN)
        if not attempt.is_granted:
            await asyncio.wait({running}, timeout=UNANSWERED_CLAIM)
        if attempt.is_granted:
            await asyncio.wait({running}, timeout=WORKER_LEAVES_IN - UNANSWERED_CLAIM)
        if not running.done():
            self._log.warning("the job could not be handed back in time; it is queued again when our lease is over")
            running.cancel()
            await asyncio.wait({running}, timeout=1)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)
