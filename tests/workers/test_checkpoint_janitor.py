"""What is deleted is needed by nobody: whatever is saved, in whatever order, and whichever rows are seen."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from adapters.object_store import ObjectStore
from domain.events import Checkpoint, CheckpointSaved, DatasetRef, JobRequested
from domain.job import NEWEST_CHECKPOINTS, Job, SavedCheckpoint, request
from workers.checkpoint_janitor import CheckpointJanitor, newest_present, orphans

histories = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=25)
"""For each checkpoint whether it was the best so far, and how many rows were published before the next one."""


def saved(number: int, best: bool = False, attempt: int = 1) -> SavedCheckpoint:
    uri = f"jobs/job/{attempt}/checkpoint-{number}-0.safetensors"
    return SavedCheckpoint(
        checkpoint=Checkpoint(attempt=attempt, epoch=number, step=0, uri=uri, sha256="0"), metrics={}, best=best
    )


def report(one: SavedCheckpoint) -> CheckpointSaved:
    c = one.checkpoint
    return CheckpointSaved(
        attempt=c.attempt, worker="w", epoch=c.epoch, step=c.step, uri=c.uri, sha256=c.sha256, best=one.best
    )


def job(checkpoints: list[SavedCheckpoint], attempt: int = 1) -> Job:
    dataset = DatasetRef(id="d", uri="d", sha256="0", format="csv")
    asked = JobRequested(
        name="j", recipe="r", recipe_version=1, parameters={}, epochs=9, dataset=dataset, model="m", max_losses=3
    )
    made = request(asked, job_id="job", actor="u", at=0, version=1)
    return replace(made, attempt=attempt, checkpoints=tuple(checkpoints[-NEWEST_CHECKPOINTS:]))


class TestWhatIsDeleted:
    @given(histories)
    def test_the_two_newest_and_the_best_are_always_there_and_nothing_else_in_the_end(
        self, history: list[tuple[bool, int]]
    ) -> None:
        janitor = CheckpointJanitor(store=None, job_id="job")  # type: ignore[arg-type]  # It only says what to delete.
        checkpoints: list[SavedCheckpoint] = []
        there: set[str] = set()

        def needed() -> set[str]:
            bests = [one for one in checkpoints if one.best][-1:]
            return {one.checkpoint.uri for one in (*checkpoints[-2:], *bests)}

        for number, (best, rows) in enumerate(history, start=1):
            checkpoints.append(saved(number, best))
            janitor.report(report(checkpoints[-1]))
            there.add(checkpoints[-1].checkpoint.uri)
            for _ in range(rows):
                there -= {one.checkpoint.uri for one in janitor.see(job(checkpoints))}
                assert there == needed()
            assert there >= needed()
        there -= {one.checkpoint.uri for one in janitor.see(job(checkpoints))}
        assert there == needed()

    @given(st.integers(0, 9), st.integers(1, 9))
    def test_what_no_row_has_shown_stays(self, shown: int, more: int) -> None:
        janitor = CheckpointJanitor(store=None, job_id="job")  # type: ignore[arg-type]
        checkpoints = [saved(number) for number in range(1, shown + more + 1)]
        for one in checkpoints:
            janitor.report(report(one))
        gone = janitor.see(job(checkpoints[:shown]))
        assert [one.checkpoint.uri for one in gone] == [one.checkpoint.uri for one in checkpoints[: max(0, shown - 2)]]

    def test_one_that_was_refused_takes_no_place_of_one_that_counts(self) -> None:
        janitor = CheckpointJanitor(store=None, job_id="job")  # type: ignore[arg-type]
        for number in range(1, 7):
            janitor.report(report(saved(number)))
        counted = [saved(number) for number in (1, 2, 4, 6)]
        gone = {one.checkpoint.uri for one in janitor.see(job(counted))}
        assert gone == {saved(number).checkpoint.uri for number in (1, 2, 3, 5)}

    @given(st.integers(0, 8), st.integers(0, 8))
    def test_a_worker_that_takes_over_deletes_nothing_that_a_claim_could_name(self, before: int, after: int) -> None:
        earlier = [saved(number) for number in range(1, before + 1)]
        janitor = CheckpointJanitor(store=None, job_id="job")  # type: ignore[arg-type]
        gone = {one.checkpoint.uri for one in janitor.see(job(earlier, attempt=2))}
        checkpoints = earlier
        for number in range(1, after + 1):
            checkpoints = [*checkpoints, saved(number, attempt=2)]
            gone |= {one.checkpoint.uri for one in janitor.see(job(checkpoints, attempt=2))}
        assert not gone & {one.checkpoint.uri for one in checkpoints[-2:]}


class TestOrphans:
    def test_files_of_earlier_attempts_that_no_row_lists_go(self) -> None:
        listed = saved(3, best=True)
        keys = [
            listed.checkpoint.uri,
            "jobs/job/1/checkpoint-9-0.safetensors",
            "jobs/job/2/checkpoint-1-0.safetensors",
            "jobs/job/1/log-1.txt",
            "jobs/job/1/model/model.safetensors",
            "jobs/other/1/checkpoint-9-0.safetensors",
        ]
        assert orphans(job([listed], attempt=2), keys) == ["jobs/job/1/checkpoint-9-0.safetensors"]

    def test_when_the_best_is_not_listed_all_is_kept(self) -> None:
        assert orphans(job([saved(3)], attempt=2), ["jobs/job/1/checkpoint-1-0.safetensors"]) == []

    def test_after_a_retry_from_the_beginning_nothing_is_left_of_the_attempts_before(self) -> None:
        key = "jobs/job/1/checkpoint-1-0.safetensors"
        assert orphans(job([], attempt=2), [key]) == [key]


class TestTheCheckpointToGoOnFrom:
    async def test_the_newest_that_is_there(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path.as_uri())
        await store.init()
        for number in (1, 2):
            await store.put(saved(number).checkpoint.uri, b"x")
        listed = [saved(1), saved(2), saved(3)]
        assert await newest_present(store, job(listed)) == saved(2)
        await store.delete(saved(1).checkpoint.uri)
        await store.delete(saved(2).checkpoint.uri)
        assert await newest_present(store, job(listed)) is None
        await store.close()

    async def test_the_newest_of_all_when_the_store_is_away(self, tmp_path: Path) -> None:
        store = ObjectStore((tmp_path / "away").as_uri())
        assert await newest_present(store, job([saved(1), saved(2)])) == saved(2)
        await store.close()

    async def test_a_name_that_is_no_key_of_a_store_is_passed_over(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path.as_uri())
        await store.init()
        await store.put(saved(1).checkpoint.uri, b"x")
        strange = replace(saved(2), checkpoint=replace(saved(2).checkpoint, uri="jobs/../secret"))
        assert await newest_present(store, job([saved(1), strange])) == saved(1)
        await store.close()


class TestDeleting:
    async def test_what_cannot_be_deleted_is_said_and_the_rest_is_deleted(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path.as_uri())
        await store.init()
        stuck, loose = saved(1).checkpoint.uri, saved(2).checkpoint.uri
        (tmp_path / stuck).mkdir(parents=True)  # A folder is no object, and no file to delete.
        await store.put(loose, b"x")
        with capture_logs() as logged:
            await CheckpointJanitor(store, "job").delete([stuck, "../outside", loose])
        assert await store.head(loose) is None
        failed = [line["key"] for line in logged if line["event"] == "a checkpoint could not be deleted"]
        assert failed == [stuck, "../outside"]
        await store.close()

    async def test_what_a_cancelled_deletion_has_left_is_deleted_by_the_next(self, tmp_path: Path) -> None:
        store = ObjectStore(tmp_path.as_uri())
        await store.init()
        janitor = CheckpointJanitor(store, "job")
        checkpoints = [saved(number) for number in range(1, 30)]
        for one in checkpoints:
            await store.put(one.checkpoint.uri, b"x")
            janitor.report(report(one))
        janitor.see(job(checkpoints))
        cut = asyncio.create_task(janitor.work_off())
        await asyncio.sleep(0)  # It has begun.
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        await janitor.work_off()
        left = [info.key async for info in store.list("jobs/job")]
        assert sorted(left) == sorted(one.checkpoint.uri for one in checkpoints[-2:])
        await store.close()
