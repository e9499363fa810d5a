"""What requests of people do to a job."""

from __future__ import annotations

import pytest

from domain.job import Status
from domain.refusal import Refusal
from tests.domain.scenario import (
    NOON,
    W1,
    W2,
    J,
    checkpoint,
    dataset,
    epoch,
    epochs,
    failed,
    fresh_retry,
    given,
    lost,
    model,
    pause,
    paused,
    priority,
    requested,
    resume,
    retry,
    saved,
    started,
    stop,
    stopped,
)


class TestJobRequested:
    def test_a_job_on_a_registered_dataset_is_queued(self) -> None:
        job = given().when(requested(actor="user-7")).then_status(Status.QUEUED)
        assert (job.requested_by, job.requested_at, job.version, job.previous) == ("user-7", NOON + 1000, 2, 0)

    def test_it_holds_all_that_a_run_depends_on(self) -> None:
        asked = requested(max_losses=5)
        job = given().when(asked).then_status(Status.QUEUED)
        names = ("name", "recipe", "recipe_version", "parameters", "epochs", "dataset", "model", "max_losses")
        assert [getattr(job.spec, name) for name in names] == [getattr(asked.event, name) for name in names]

    def test_without_its_dataset_it_is_refused(self) -> None:
        given().when(requested(dataset="nowhere")).then_refused(Refusal.UNKNOWN_DATASET)

    def test_under_an_id_that_is_not_the_jobs_it_is_refused(self) -> None:
        given().when(requested(id="another-id")).then_refused(Refusal.MISROUTED)

    def test_a_second_time_it_is_a_duplicate(self) -> None:
        given(requested()).when(requested()).then_refused(Refusal.DUPLICATE)

    def test_a_second_time_with_another_body_it_is_a_duplicate(self) -> None:
        given(requested()).when(requested(max_losses=9)).then_refused(Refusal.DUPLICATE)

    def test_once_refused_its_id_stays_refused(self) -> None:
        scenario = given(with_dataset=False)
        assert scenario.judge(requested()) is Refusal.UNKNOWN_DATASET
        scenario.judge(dataset())
        scenario.when(requested()).then_refused(Refusal.DUPLICATE)

    def test_jobs_of_one_workspace_do_not_touch_each_other(self) -> None:
        scenario = given(requested(), requested("job-2"), started(job="job-2"))
        assert scenario.workspace.jobs[J].status is Status.QUEUED


class TestJobStopRequested:
    def test_a_queued_job_is_stopped_at_once(self) -> None:
        given(requested()).when(stop).then_job(status=Status.STOPPED, ended_at=NOON + 2000)

    def test_a_job_that_rests_after_a_loss_is_stopped_at_once(self) -> None:
        given(requested(), started(), lost()).when(stop).then_status(Status.STOPPED)

    def test_a_paused_job_is_stopped_at_once(self) -> None:
        given(requested(), pause).when(stop).then_status(Status.STOPPED)

    def test_a_running_job_is_stopping_and_its_attempt_goes_on(self) -> None:
        given(requested(), started()).when(stop).then_job(status=Status.STOPPING, worker=W1, wanted="stop")

    def test_it_overrides_the_wish_to_pause(self) -> None:
        given(requested(), started(), pause).when(stop).then_status(Status.STOPPING)

    def test_a_stopping_job_is_refused(self) -> None:
        given(requested(), started(), stop).when(stop).then_refused(Refusal.ALREADY_STOPPING)

    @pytest.mark.parametrize("end", [model(0), failed()])
    def test_a_job_that_is_over_is_refused(self, end: object) -> None:
        given(requested(), started(), end).when(stop).then_refused(Refusal.ALREADY_OVER)  # type: ignore[arg-type]

    def test_an_unknown_job_is_refused(self) -> None:
        given().when(stop).then_refused(Refusal.UNKNOWN_JOB)


class TestJobPauseRequested:
    def test_a_queued_job_is_paused_at_once(self) -> None:
        given(requested()).when(pause).then_status(Status.PAUSED)

    def test_a_running_job_is_pausing(self) -> None:
        given(requested(), started()).when(pause).then_job(status=Status.PAUSING, worker=W1, wanted="pause")

    def test_a_stopping_job_is_refused(self) -> None:
        given(requested(), started(), stop).when(pause).then_refused(Refusal.NOT_PAUSABLE)

    def test_a_paused_job_is_refused(self) -> None:
        given(requested(), pause).when(pause).then_refused(Refusal.NOT_PAUSABLE)


class TestJobResumed:
    def test_a_paused_job_is_queued(self) -> None:
        given(requested(), pause).when(resume).then_status(Status.QUEUED)

    def test_a_pausing_job_runs_on_in_the_same_attempt(self) -> None:
        given(requested(), started(), pause).when(resume).then_job(status=Status.RUNNING, worker=W1, attempt=1)

    def test_it_does_not_withdraw_a_stop(self) -> None:
        given(requested(), started(), stop).when(resume).then_refused(Refusal.NOT_PAUSED)

    def test_a_running_job_is_refused(self) -> None:
        given(requested(), started()).when(resume).then_refused(Refusal.NOT_PAUSED)

    def test_a_job_paused_in_an_attempt_resumes_with_the_next_attempt(self) -> None:
        run = [*epochs(1, 4), saved(4), pause, paused(), resume]
        scenario = given(requested(), started(), run)
        scenario.when(started(2, W2, checkpoint(4))).then_job(status=Status.RUNNING, attempt=2, epoch=4)


class TestJobRetried:
    def test_a_failed_job_is_queued_and_its_numbers_go_on(self) -> None:
        job = given(requested(), started(), epoch(1), failed()).when(retry).then_status(Status.QUEUED)
        assert (job.attempt, job.losses, job.error, job.ended_at, job.worker) == (1, 0, None, None, None)

    def test_a_stopped_job_is_queued(self) -> None:
        given(requested(), started(), stop, stopped()).when(retry).then_status(Status.QUEUED)

    def test_it_forgets_losses_and_rest(self) -> None:
        given(requested(max_losses=2), started(), lost(), started(2), lost(2)).when(retry).then_job(
            status=Status.QUEUED, losses=0, setbacks=0, not_before=0, loss=None
        )

    def test_its_next_attempt_has_the_next_number(self) -> None:
        given(requested(), started(), failed(), retry).when(started(1)).then_refused(Refusal.CLAIM_LOST)
        given(requested(), started(), failed(), retry).when(started(2)).then_status(Status.RUNNING)

    def test_it_keeps_the_checkpoints(self) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), failed(), retry)
        scenario.when(started(2, named=checkpoint(1))).then_job(epoch=1, metrics={"loss": 0.5})

    def test_fresh_drops_the_checkpoints(self) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), failed(), fresh_retry)
        assert scenario.workspace.jobs[J].checkpoints == ()
        scenario.when(started(2, named=checkpoint(1))).then_refused(Refusal.UNKNOWN_CHECKPOINT)

    def test_fresh_begins_the_curve_again(self) -> None:
        run = given(requested(), started(), epochs(1, 3), saved(3), failed())
        run.when(fresh_retry).then_job(epoch=0, metrics={}, origins=(), epoch_seconds=None)

    def test_checkpoints_saved_after_a_fresh_retry_may_be_named(self) -> None:
        run = [requested(), started(), epoch(1), saved(1), failed(), fresh_retry]
        scenario = given(run, started(2), epoch(1, attempt=2), saved(1, attempt=2), lost(2))
        scenario.when(started(3, named=checkpoint(1, attempt=2))).then_status(Status.RUNNING)

    @pytest.mark.parametrize("history", [[], [started()], [started(), model(0)], [pause]])
    def test_any_other_job_is_refused(self, history: list[object]) -> None:
        given(requested(), history).when(retry).then_refused(Refusal.NOT_RETRIABLE)  # type: ignore[arg-type]


class TestPriorityChanged:
    def test_it_moves_the_job(self) -> None:
        given(requested()).when(priority(7)).then_job(status=Status.QUEUED, priority=7)

    def test_a_running_job_may_move_too(self) -> None:
        given(requested(), started()).when(priority(-3)).then_job(status=Status.RUNNING, priority=-3, worker=W1)

    def test_a_job_that_is_over_is_refused(self) -> None:
        given(requested(), stop).when(priority(1)).then_refused(Refusal.ALREADY_OVER)
