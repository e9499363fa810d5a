"""What the table says it should run, a worker runs; what the table does not grant, it stops; whatever order things come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from uuid_utils import uuid7

import workers.attempt
import workers.worker
from adapters import kafka
from adapters.kafka import partition_of, topic_name
from adapters.settings import WorkerSettings
from domain.events import (
    AttemptLost,
    AttemptStarted,
    EpochCompleted,
    JobCompleted,
    JobPauseRequested,
    JobResumed,
    JobStopped,
    JobStopRequested,
)
from domain.job import Job, Status
from schemas.facts import VERSION_HEADER
from schemas.heartbeat import Heartbeat, encode
from schemas.tables import OpenJob, encode_open_job
from schemas.topics import EVENTS, HEARTBEATS, JOBS
from tests.workers.installation import LEASE, Installation
from tests.workers.scripted_children import ScriptedChild, ScriptedChildren
from tests.workers.small_projector import SmallProjector
from workers.child_messages import EpochDone, Go, ModelWritten, ToChild, Train
from workers.worker import Worker


class NoneAtFirst(ScriptedChildren):
    """The first time that one is asked for, there is none: the machine has no room for another process."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    async def take(self) -> ScriptedChild:
        if not self.asked:
            self.asked = True
            await asyncio.Event().wait()
        return await super().take()


class Hanging(ScriptedChild):
    """Stuck in the kernel, as with a disk or a GPU that does not answer: no signal ends it."""

    def kill(self) -> None:
        return


class Broken(ScriptedChild):
    """Told to train, it meets a mistake of ours."""

    async def send(self, message: ToChild) -> None:
        if isinstance(message, Go):
            raise ZeroDivisionError("planted")
        await super().send(message)


class FirstOfAll(ScriptedChildren):
    """The first of them is of that kind."""

    def __init__(self, kind: type[ScriptedChild]) -> None:
        super().__init__()
        self._kind = kind

    async def take(self) -> ScriptedChild:
        child = await super().take()
        if len(self.taken) == 1:
            child = self.taken[0] = self._kind()
        return child


@dataclass
class Scene:
    """One worker in this process, with children that obey the test."""

    installation: Installation
    projector: SmallProjector
    worker: Worker
    children: ScriptedChildren

    async def job(self, **changes: object) -> str:
        return await self.installation.request({"epochs": 2}, recipe="tabular", **changes)

    async def until(self, job_id: str, status: Status) -> Job:
        found = await self.projector.until(lambda: (job := self.projector.job(job_id)) and job.status is status and job)
        assert isinstance(found, Job)
        return found

    async def claimed(self, job_id: str, attempt: int = 1) -> None:
        """Until the worker's claim was judged."""
        await self.projector.until(
            lambda: any(
                isinstance(v.event, AttemptStarted) and v.event.attempt == attempt and v.actor == self.worker.id
                for v in self.projector.verdicts
                if v.subject == job_id
            )
        )

    async def publish(self, job: Job, *, version: int | None = None) -> None:
        """A row as any projector might publish it, also a late or a repeated one."""
        producer = kafka.producer(self.installation.settings.kafka)
        await producer.start()
        value = encode_open_job(OpenJob(workspace=self.installation.workspace, job=job))
        headers = [(VERSION_HEADER, str(version or job.version).encode())]
        await producer.send_and_wait(
            topic_name(self.installation.settings.kafka, JOBS), value, key=job.id.encode(), headers=headers
        )
        await producer.stop()


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running
        await worker.close()


def elsewhere(workspace: str) -> str:
    """A workspace that lives in another partition of the log."""

    def home(name: str) -> int:
        return partition_of(name.encode(), EVENTS.partitions)

    return next(name for name in (str(uuid7()) for _ in range(1000)) if home(name) != home(workspace))


@pytest.fixture
async def scene(installation: Installation, projector: SmallProjector) -> AsyncIterator[Scene]:
    children = ScriptedChildren()
    made = Worker(installation.settings, children)
    async with working(made):
        yield Scene(installation, projector, made, children)


class TestGrants:
    async def test_nothing_is_trained_before_the_table_shows_the_attempt_as_ours(self, scene: Scene) -> None:
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        assert child.job_id == job_id
        async with asyncio.timeout(60):
            await child.going.wait()
        granted = scene.projector.job(job_id)
        assert granted is not None
        assert granted.is_held_by(scene.worker.id, 1)
        child.finishes(2)
        await scene.until(job_id, Status.COMPLETED)
        assert scene.projector.records(job_id, JobCompleted)

    async def test_a_claim_that_comes_second_is_dropped_and_the_next_job_is_claimed(self, scene: Scene) -> None:
        await scene.installation.add_dataset(b"x\n")
        scene.projector.pause()
        contested = await scene.job(priority=5)
        await scene.installation.append(AttemptStarted(attempt=1, worker="faster"), contested, actor="faster")
        other = await scene.job()
        scene.projector.go_on()
        await scene.projector.until(lambda: (job := scene.projector.job(other)) and job.worker == scene.worker.id)
        last = scene.children.taken[-1]
        async with asyncio.timeout(60):
            await last.going.wait()
        assert last.job_id == other
        assert all(Go() not in child.heard for child in scene.children.taken if child.job_id == contested)

    async def test_a_claim_without_an_answer_occupies_the_worker(self, scene: Scene) -> None:
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        scene.projector.pause()
        child.finishes(2)
        first = scene.projector.job(job_id)
        assert first is not None
        queued = replace(first, id="0" * 32, status=Status.QUEUED, worker=None, attempt=0, version=1)
        another = replace(queued, id="1" * 32)
        await scene.publish(queued)
        await scene.publish(another)
        await scene.children.until_taken(2)
        await asyncio.sleep(0.3)
        assert len(scene.children.taken) == 2
        scene.projector.go_on()

    async def test_a_claim_that_nobody_answers_is_taken_back_for_work_in_another_partition(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers.worker, "UNANSWERED_LEASES", 0.2)
        stuck = scene.installation.workspace
        busy = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        waiting = await scene.job()
        await scene.projector.until(lambda: scene.projector.job(waiting))
        scene.projector.stand_still(stuck)
        child.finishes(2)
        unanswered = await scene.children.until_taken(2)
        assert unanswered.job_id == waiting

        scene.installation.move_to(elsewhere(stuck))
        other = await scene.job()
        third = await scene.children.until_taken(3)
        async with asyncio.timeout(60):
            await third.going.wait()
        assert (third.job_id, unanswered.was_killed) == (other, True)
        third.finishes(2)
        await scene.until(other, Status.COMPLETED)
        assert (job := scene.projector.job(busy)) is not None
        assert job.status is Status.RUNNING, "nothing of the other partition was judged"

        scene.projector.go_on()
        fourth = await scene.children.until_taken(4)
        async with asyncio.timeout(60):
            await fourth.going.wait()
        fourth.finishes(2)
        done = await scene.until(waiting, Status.COMPLETED)
        assert (done.attempt, done.losses) == (2, 0)
        [lost] = scene.projector.records(waiting, AttemptLost)
        assert (lost.attempt, lost.reason) == (1, "released")
        assert scene.projector.records(waiting, AttemptStarted, refused=True) == [], "no attempt was claimed twice"
        assert (await scene.until(busy, Status.COMPLETED)).attempt == 1

    async def test_a_claim_that_nobody_answers_is_kept_where_there_is_nothing_else_to_do(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers.worker, "UNANSWERED_LEASES", 0.01)
        await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        waiting, another = await scene.job(), await scene.job()
        await scene.projector.until(lambda: scene.projector.job(another))
        scene.projector.stand_still(scene.installation.workspace)
        child.finishes(2)
        unanswered = await scene.children.until_taken(2)
        await asyncio.sleep(LEASE / 2)  # Some beats, at each of which it would have been taken back.
        assert (unanswered.job_id, unanswered.was_killed) == (waiting, False)
        scene.projector.go_on()
        async with asyncio.timeout(60):
            await unanswered.going.wait()

    async def test_a_grant_that_comes_after_the_claim_was_given_up_is_served(self, scene: Scene) -> None:
        await scene.installation.add_dataset(b"x\n")
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        await scene.installation.append(JobPauseRequested(), job_id)
        async with asyncio.timeout(60):
            await child.leaving.wait()
        paused = await scene.until(job_id, Status.PAUSED)
        scene.projector.pause()
        # To this worker the job seems to be queued; its claim waits behind a projector that judges nothing.
        await scene.installation.append(JobResumed(), job_id)
        seen = replace(paused, status=Status.QUEUED)
        await scene.publish(seen)
        second = await scene.children.until_taken(2)
        await asyncio.sleep(0.2)
        # The same row again looks like a refusal, though it is only late; then the claim is granted after all.
        await scene.publish(seen)
        async with asyncio.timeout(60):
            while not second.was_killed:  # noqa: ASYNC110 — No event tells of it.
                await asyncio.sleep(0.01)
        scene.projector.go_on()
        third = await scene.children.until_taken(3)
        async with asyncio.timeout(60):
            await third.going.wait()
        third.finishes(2)
        job = await scene.until(job_id, Status.COMPLETED)
        assert job.attempt == 2

    async def test_a_grant_that_it_cannot_serve_it_gives_back(self, scene: Scene) -> None:
        first = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        busy = scene.projector.job(first)
        second = await scene.job()
        await scene.installation.append(
            AttemptStarted(attempt=1, worker=scene.worker.id), second, actor=scene.worker.id
        )
        await scene.projector.until(lambda: scene.projector.records(second, AttemptLost))
        (lost,) = scene.projector.records(second, AttemptLost)
        assert (lost.reason, lost.worker) == ("released", scene.worker.id)
        assert scene.projector.job(first) == busy
        child.finishes(2)
        await scene.until(first, Status.COMPLETED)


class TestFencing:
    async def test_a_child_whose_attempt_was_given_up_on_is_killed_and_the_worker_takes_the_next_job(
        self, scene: Scene
    ) -> None:
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        lost = AttemptLost(attempt=1, worker=scene.worker.id, reason="lease_expired")
        await scene.installation.append(lost, job_id, actor="supervisor")
        second = await scene.children.until_taken(2)
        assert child.was_killed
        assert second.job_id == job_id
        order = next(message for message in second.heard if isinstance(message, Train))
        assert order.attempt == 2

    async def test_a_late_row_of_an_older_version_changes_nothing(self, scene: Scene) -> None:
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        job = scene.projector.job(job_id)
        assert job is not None
        await scene.publish(replace(job, status=Status.QUEUED, worker=None, attempt=0, version=job.version - 1))
        child.says(EpochDone(epoch=1, metrics={"loss": 1.0}, seconds=0.1))
        await scene.projector.until(lambda: scene.projector.records(job_id, EpochCompleted))
        assert not child.was_killed

    async def test_a_stop_before_training_began_ends_the_job_without_training(self, scene: Scene) -> None:
        await scene.installation.add_dataset(b"x\n")
        scene.projector.pause()
        job_id = await scene.job()
        await scene.installation.append(AttemptStarted(attempt=1, worker=scene.worker.id), job_id, actor="w")
        await scene.installation.append(JobStopRequested(), job_id)
        scene.projector.go_on()
        await scene.until(job_id, Status.STOPPED)
        assert len(scene.projector.records(job_id, JobStopped)) == 1


class TestEnds:
    async def test_an_end_that_was_refused_does_not_leave_the_job_hanging(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers.worker, "REASSERTED_AFTER", 0.5)
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        # A model of an epoch that never counted: the log refuses it, and nobody else would ever end the attempt.
        child.says(ModelWritten(last_epoch=2, files=(), metrics={}))
        await scene.projector.until(lambda: scene.projector.records(job_id, AttemptLost))
        assert scene.projector.records(job_id, JobCompleted) == []
        assert len(scene.projector.records(job_id, JobCompleted, refused=True)) == 1

    async def test_strange_records_in_the_tables_are_passed_over(self, scene: Scene) -> None:
        producer = kafka.producer(scene.installation.settings.kafka)
        await producer.start()
        for topic in (JOBS, HEARTBEATS):
            name = topic_name(scene.installation.settings.kafka, topic)
            for value in (b"\x00\xff", b"{}", b"[]", None):
                await producer.send_and_wait(name, value, key=b"\xfe\xff")
        other = Heartbeat(id="stranger", kind="worker", state="idle", sequence=1, started_at=0)
        await producer.send_and_wait(
            topic_name(scene.installation.settings.kafka, HEARTBEATS), encode(other), key=b"stranger"
        )
        await producer.stop()
        job_id = await scene.job()
        child = await scene.children.until_taken(1)
        async with asyncio.timeout(60):
            await child.going.wait()
        child.finishes(2)
        await scene.until(job_id, Status.COMPLETED)


class TestTroubleOfTheMachine:
    async def test_a_job_for_which_no_process_can_be_started_is_given_back(
        self, installation: Installation, projector: SmallProjector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers.attempt, "CHILD_SECONDS", 0.1)
        children = NoneAtFirst()
        made = Worker(installation.settings, children)
        async with working(made):
            scene = Scene(installation, projector, made, children)
            job_id = await scene.job()
            await projector.until(lambda: projector.records(job_id, AttemptLost))
            (lost,) = projector.records(job_id, AttemptLost)
            assert (lost.worker, lost.reason) == (made.id, "released")
            child = await children.until_taken(1)
            async with asyncio.timeout(60):
                await child.going.wait()
            child.finishes(2)
            await scene.until(job_id, Status.COMPLETED)

    async def test_a_process_that_cannot_be_killed_is_said_and_does_not_keep_the_worker(
        self,
        installation: Installation,
        projector: SmallProjector,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(workers.attempt, "DIES_IN", 0.1)
        children = FirstOfAll(Hanging)
        made = Worker(installation.settings, children)
        with capture_logs() as logged:
            async with working(made):
                scene = Scene(installation, projector, made, children)
                job_id = await scene.job()
                async with asyncio.timeout(60):
                    await (await children.until_taken(1)).going.wait()
                lost = AttemptLost(attempt=1, worker=made.id, reason="lease_expired")
                await installation.append(lost, job_id, actor="supervisor")
                await children.until_taken(2)
        said = [line["pid"] for line in logged if line["event"] == "the training process cannot be killed"]
        assert said == [ScriptedChild.pid]

    async def test_a_job_waits_while_there_is_no_place_for_its_files_and_is_trained_afterwards(
        self, installation: Installation, projector: SmallProjector
    ) -> None:
        children = ScriptedChildren()
        place = installation.folder / "state"
        settings = installation.settings.model_copy(update={"state": place, "worker": WorkerSettings(lease_seconds=1)})
        made = Worker(settings, children)
        with capture_logs() as logged:
            async with working(made):
                place.write_text("where a folder should be")
                scene = Scene(installation, projector, made, children)
                job_id = await scene.job()
                await projector.until(lambda: any("this machine cannot" in line["event"] for line in logged))
                assert children.taken == []
                place.unlink()
                child = await children.until_taken(1)
                async with asyncio.timeout(60):
                    await child.going.wait()
                child.finishes(2)
                await scene.until(job_id, Status.COMPLETED)
        assert projector.records(job_id, AttemptLost) == []
        assert [line for line in logged if line.get("exc_info")] == []

    async def test_a_mistake_of_ours_costs_an_attempt_and_not_the_worker(
        self, installation: Installation, projector: SmallProjector
    ) -> None:
        children = FirstOfAll(Broken)
        made = Worker(installation.settings, children)
        with capture_logs() as logged:
            async with working(made):
                scene = Scene(installation, projector, made, children)
                job_id = await scene.job()
                child = await children.until_taken(2)
                async with asyncio.timeout(60):
                    await child.going.wait()
                child.finishes(2)
                await scene.until(job_id, Status.COMPLETED)
        [told] = [line for line in logged if line["event"] == "an attempt failed in the worker itself"]
        assert (told["job"], told["exc_info"]) == (job_id, True)
        (lost,) = projector.records(job_id, AttemptLost)
        assert (lost.attempt, lost.reason) == (1, "released")
        assert children.taken[0].was_killed

    async def test_a_child_that_lives_on_when_its_end_shows_is_killed_and_its_files_are_removed(
        self, installation: Installation, projector: SmallProjector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            workers.attempt, "SHOWN_BEFORE_TOLD", 0.1
        )  # The end shows while the child is still waited for.
        children = ScriptedChildren()
        made = Worker(installation.settings.model_copy(update={"state": installation.folder}), children)
        async with working(made):
            scene = Scene(installation, projector, made, children)
            job_id = await scene.job()
            child = await children.until_taken(1)
            async with asyncio.timeout(60):
                await child.going.wait()
            child.says(EpochDone(epoch=1, metrics={"loss": 1.0}, seconds=0.1))
            child.says(EpochDone(epoch=2, metrics={"loss": 1.0}, seconds=0.1))
            child.says(ModelWritten(last_epoch=2, files=(), metrics={}))
            await scene.until(job_id, Status.COMPLETED)
            await scene.job()
            await children.until_taken(2)
            assert child.was_killed
            [scratch] = (installation.folder / "scratch").iterdir()
            assert str(scratch) == next(m.scratch for m in children.taken[1].heard if isinstance(m, Train))


class TestLeaving:
    async def test_a_worker_that_leaves_with_an_unanswered_claim_does_not_wait_for_ever(
        self, installation: Installation, projector: SmallProjector
    ) -> None:
        children = ScriptedChildren()
        made = Worker(installation.settings, children)
        await installation.add_dataset(b"x\n")
        async with asyncio.timeout(60), working(made):
            scene = Scene(installation, projector, made, children)
            first = await scene.job()
            child = await children.until_taken(1)
            async with asyncio.timeout(60):
                await child.going.wait()
            job = projector.job(first)
            assert job is not None
            projector.pause()
            child.finishes(2)
            await scene.publish(replace(job, id="0" * 32, status=Status.QUEUED, worker=None, attempt=0, version=1))
            await children.until_taken(2)
        projector.go_on()
        assert children.taken[1].was_killed

    async def test_what_is_idle_is_gone_at_once(self, installation: Installation, projector: SmallProjector) -> None:
        made = Worker(installation.settings, ScriptedChildren())
        async with asyncio.timeout(30 + LEASE), working(made):
            with suppress(TimeoutError):
                await projector.until(lambda: False, 0.1)
