"""What records of workers and supervisors do to a job."""

from __future__ import annotations

import msgspec
import pytest

from domain.events import LossReason
from domain.job import NEWEST_CHECKPOINTS, JobError, ModelVersion, Origin, Status
from domain.refusal import Refusal
from tests.domain.scenario import (
    NOON,
    W1,
    W2,
    J,
    Record,
    checkpoint,
    completed,
    epoch,
    epochs,
    failed,
    given,
    lost,
    model,
    pause,
    paused,
    released,
    requested,
    resume,
    saved,
    started,
    stop,
    stopped,
)


class TestAttemptStarted:
    def test_the_first_claim_wins(self) -> None:
        given(requested()).when(started(1, W1)).then_job(status=Status.RUNNING, attempt=1, worker=W1, epoch=0)

    def test_the_second_claim_is_lost(self) -> None:
        given(requested(), started(1, W1)).when(started(1, W2)).then_refused(Refusal.CLAIM_LOST)

    def test_a_late_copy_of_the_winning_claim_is_lost(self) -> None:
        given(requested(), started(1), lost(1)).when(started(1)).then_refused(Refusal.CLAIM_LOST)

    def test_an_attempt_cannot_be_skipped(self) -> None:
        given(requested()).when(started(2)).then_refused(Refusal.CLAIM_LOST)

    def test_a_paused_job_cannot_be_claimed(self) -> None:
        given(requested(), pause).when(started()).then_refused(Refusal.CLAIM_LOST)

    def test_a_job_that_rests_can_be_claimed_all_the_same(self) -> None:
        """Workers obey `not_before`; a verdict never reads a clock."""
        scenario = given(requested(max_losses=9), started(1), lost(1), started(2), lost(2))
        assert scenario.workspace.jobs[J].not_before > NOON + 5000
        scenario.when(started(3)).then_status(Status.RUNNING)

    def test_it_goes_on_from_the_checkpoint_it_names(self) -> None:
        scenario = given(requested(), started(), epochs(1, 3), saved(3), epoch(4), lost())
        scenario.when(started(2, W2, checkpoint(3))).then_job(
            epoch=3, attempt=2, worker=W2, metrics={"loss": 0.5}, origins=(Origin(1, 0, 0), Origin(2, 1, 3))
        )

    def test_it_may_name_an_older_checkpoint(self) -> None:
        run = [step for number in range(1, 8) for step in (epoch(number), saved(number))]
        scenario = given(requested(), started(), run, lost())
        assert len(scenario.workspace.jobs[J].checkpoints) == NEWEST_CHECKPOINTS
        scenario.when(started(2, W2, checkpoint(1))).then_job(epoch=1)

    def test_it_may_begin_again_though_there_are_checkpoints(self) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), lost())
        scenario.when(started(2)).then_job(epoch=0, metrics={})

    def test_a_checkpoint_that_was_never_saved_is_refused(self) -> None:
        given(requested(), started(), epoch(1), lost()).when(started(2, W2, checkpoint(1))).then_refused(
            Refusal.UNKNOWN_CHECKPOINT
        )

    @pytest.mark.parametrize("difference", [{"sha256": "0" * 64}, {"uri": "elsewhere"}])
    def test_a_checkpoint_of_other_bytes_is_refused(self, difference: dict[str, str]) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), lost())
        other = msgspec.structs.replace(checkpoint(1), **difference)
        scenario.when(started(2, W2, other)).then_refused(Refusal.UNKNOWN_CHECKPOINT)

    def test_a_checkpoint_of_another_job_is_refused(self) -> None:
        other = [started(job="job-2"), epoch(1, job="job-2"), saved(1, job="job-2")]
        scenario = given(requested(), requested("job-2"), other)
        scenario.when(started(1, W2, checkpoint(1))).then_refused(Refusal.UNKNOWN_CHECKPOINT)

    def test_a_checkpoint_that_was_struck_is_refused(self) -> None:
        struck = lost(2, reason="checkpoint_unreadable", unreadable=checkpoint(1))
        scenario = given(requested(), started(), epoch(1), saved(1), lost(), started(2, named=checkpoint(1)), struck)
        scenario.when(started(3, W2, checkpoint(1))).then_refused(Refusal.UNKNOWN_CHECKPOINT)

    def test_attempts_that_saved_nothing_leave_no_trace_in_the_chain(self) -> None:
        saves = [started(), epoch(1), saved(1), released()]
        vain = [record for n in range(2, 50) for record in (started(n, named=checkpoint(1)), released(n))]
        scenario = given(requested(), saves, vain)
        scenario.when(started(50, named=checkpoint(1))).then_job(origins=(Origin(1, 0, 0), Origin(50, 1, 1)))


class TestEpochCompleted:
    def test_the_next_epoch_counts(self) -> None:
        given(requested(), started()).when(epoch(1, loss=0.25)).then_job(epoch=1, metrics={"loss": 0.25})

    def test_an_epoch_that_skips_one_is_out_of_order(self) -> None:
        given(requested(), started()).when(epoch(2)).then_refused(Refusal.OUT_OF_ORDER)

    def test_an_epoch_twice_is_out_of_order(self) -> None:
        given(requested(), started(), epoch(1)).when(epoch(1)).then_refused(Refusal.OUT_OF_ORDER)

    @pytest.mark.parametrize("wish", [stop, pause])
    def test_it_counts_while_stopping_or_pausing(self, wish: Record) -> None:
        given(requested(), started(), wish).when(epoch(1)).then_job(epoch=1)

    def test_a_lost_attempt_is_fenced(self) -> None:
        given(requested(), started(1), lost(1), started(2, W2)).when(epoch(1)).then_refused(Refusal.FENCED)

    def test_a_lost_attempt_is_fenced_while_nobody_runs_the_job(self) -> None:
        given(requested(), started(1), lost(1)).when(epoch(1)).then_refused(Refusal.FENCED)

    def test_another_worker_is_fenced(self) -> None:
        given(requested(), started(1, W1)).when(epoch(1, worker=W2)).then_refused(Refusal.FENCED)

    def test_of_an_attempt_yet_to_come_it_is_fenced(self) -> None:
        given(requested(), started(1)).when(epoch(1, attempt=2)).then_refused(Refusal.FENCED)

    def test_one_refused_too_early_takes_effect_later(self) -> None:
        """The ids of workers' records decide nothing: the fold alone does."""
        scenario = given(requested(), started())
        second = Record(epoch(2).event, J, id="same-id")
        assert scenario.judge(second) is Refusal.OUT_OF_ORDER
        scenario.judge(epoch(1))
        scenario.when(second).then_job(epoch=2)


class TestCheckpointSaved:
    def test_it_may_be_named_and_clears_the_losses(self) -> None:
        scenario = given(requested(), started(), lost(), started(2), epoch(1, attempt=2))
        job = scenario.when(saved(1, attempt=2)).then_job(losses=0, setbacks=0, has_saved=True)
        assert [kept.checkpoint for kept in job.checkpoints] == [checkpoint(1, attempt=2)]

    def test_it_may_be_saved_before_the_first_epoch(self) -> None:
        given(requested(), started()).when(saved(0, step=5)).then_job(epoch=0)

    def test_of_an_epoch_that_is_not_the_last_one_it_is_out_of_order(self) -> None:
        run = given(requested(), started(), epochs(1, 2))
        run.when(saved(1)).then_refused(Refusal.OUT_OF_ORDER)
        run.when(saved(3)).then_refused(Refusal.OUT_OF_ORDER)

    def test_the_same_step_twice_is_refused(self) -> None:
        given(requested(), started(), epoch(1), saved(1)).when(saved(1)).then_refused(Refusal.ALREADY_SAVED)

    def test_other_steps_of_one_epoch_count_in_any_order(self) -> None:
        run = given(requested(), started(), epoch(1), saved(1, step=20), saved(1, step=10))
        run.when(saved(1, step=20)).then_refused(Refusal.ALREADY_SAVED)

    def test_the_step_of_an_earlier_attempt_is_another_checkpoint(self) -> None:
        run = given(requested(), started(), epoch(1), saved(1), lost(), started(2), epoch(1, attempt=2))
        run.when(saved(1, attempt=2)).then_effect()

    def test_a_lost_attempt_is_fenced(self) -> None:
        given(requested(), started(), epoch(1), lost()).when(saved(1)).then_refused(Refusal.FENCED)

    def test_the_state_lists_the_newest(self) -> None:
        run = [step for number in range(1, 8) for step in (epoch(number), saved(number))]
        job = given(requested(), started(), run).when(saved(7, step=701)).then_job(epoch=7)
        assert [kept.checkpoint.step for kept in job.checkpoints] == [500, 600, 700, 701]


class TestTheEndOfAnAttempt:
    """`JobStopped`, `JobPaused`, `AttemptLost`: what is wanted now decides, not which of the three it is."""

    ENDS = (stopped(), paused(), lost(), released())

    @pytest.mark.parametrize("end", ENDS)
    def test_with_a_stop_wanted_the_job_is_stopped(self, end: Record) -> None:
        given(requested(), started(), stop).when(end).then_job(
            status=Status.STOPPED, worker=None, ended_at=NOON + 4000, wanted=None
        )

    @pytest.mark.parametrize("end", ENDS)
    def test_with_a_pause_wanted_the_job_is_paused(self, end: Record) -> None:
        given(requested(), started(), pause).when(end).then_job(status=Status.PAUSED, worker=None, wanted=None)

    @pytest.mark.parametrize("end", ENDS)
    def test_with_nothing_wanted_the_job_is_queued_again(self, end: Record) -> None:
        given(requested(), started()).when(end).then_job(status=Status.QUEUED, worker=None, attempt=1)

    @pytest.mark.parametrize("end", ENDS)
    def test_with_the_wish_withdrawn_the_job_is_queued_again(self, end: Record) -> None:
        given(requested(), started(), pause, resume).when(end).then_status(Status.QUEUED)

    @pytest.mark.parametrize("end", ENDS)
    def test_with_a_pause_that_became_a_stop_the_job_is_stopped(self, end: Record) -> None:
        given(requested(), started(), pause, stop).when(end).then_status(Status.STOPPED)

    @pytest.mark.parametrize("end", ENDS)
    def test_an_attempt_ends_once(self, end: Record) -> None:
        given(requested(), started(), end).when(end).then_refused(Refusal.FENCED)

    @pytest.mark.parametrize("end", [stopped(1, W2), paused(1, W2), lost(1, W2), failed(1, W2), model(0, worker=W2)])
    def test_by_another_worker_it_is_fenced(self, end: Record) -> None:
        given(requested(), started(1, W1)).when(end).then_refused(Refusal.FENCED)


class TestAttemptLost:
    def test_it_counts(self) -> None:
        given(requested(), started()).when(lost()).then_job(losses=1, setbacks=1, loss="lease_expired")

    def test_what_was_handed_back_does_not_count(self) -> None:
        given(requested(max_losses=1), started()).when(released()).then_job(
            status=Status.QUEUED, losses=0, setbacks=1, loss="released"
        )

    def test_the_last_one_allowed_fails_the_job(self) -> None:
        scenario = given(requested(max_losses=2), started(1), lost(1), started(2))
        scenario.when(lost(2, reason="out_of_memory")).then_job(
            status=Status.FAILED, losses=2, error=JobError(code="out_of_memory"), ended_at=NOON + 5000
        )

    @pytest.mark.parametrize(("wish", "end"), [(stop, Status.STOPPED), (pause, Status.PAUSED)])
    def test_what_is_wanted_goes_before_failing(self, wish: Record, end: Status) -> None:
        given(requested(max_losses=1), started(), wish).when(lost()).then_job(status=end, error=None)

    def test_a_release_after_the_last_loss_allowed_does_not_fail_the_job(self) -> None:
        scenario = given(requested(max_losses=1), started(), pause, lost(), resume, started(2))
        scenario.when(released(2)).then_job(status=Status.QUEUED, losses=1)

    def test_an_effective_checkpoint_starts_the_count_again(self) -> None:
        scenario = given(requested(max_losses=2), started(1), lost(1), started(2), epoch(1, attempt=2))
        scenario.judge(saved(1, attempt=2))
        scenario.when(lost(2)).then_job(status=Status.QUEUED, losses=1)

    def test_the_rest_grows_with_losses_and_releases(self) -> None:
        scenario = given(requested(max_losses=100))
        rests = []
        for attempt in range(1, 11):
            scenario.judge(started(attempt))
            job = scenario.when(lost(attempt) if attempt % 2 else released(attempt)).then_status(Status.QUEUED)
            rests.append(job.not_before - job.updated_at)
        assert rests == [0, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]

    @pytest.mark.parametrize("reason", ["lease_expired", "killed", "out_of_memory", "device_error"])
    def test_only_an_unreadable_checkpoint_is_struck(self, reason: LossReason) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), lost(), started(2, named=checkpoint(1)))
        effect = scenario.when(lost(2, reason=reason, unreadable=checkpoint(1))).then_effect()
        assert effect.struck is None
        scenario.when(started(3, named=checkpoint(1))).then_status(Status.RUNNING)

    def test_an_unreadable_checkpoint_is_struck_and_counts(self) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), lost(), started(2, named=checkpoint(1)))
        outcome = scenario.when(lost(2, reason="checkpoint_unreadable", unreadable=checkpoint(1)))
        outcome.then_job(checkpoints=(), losses=2)
        assert outcome.then_effect().struck == checkpoint(1)

    def test_an_older_checkpoint_than_the_state_lists_is_struck_too(self) -> None:
        run = [step for number in range(1, 8) for step in (epoch(number), saved(number))]
        scenario = given(requested(), started(), run, lost(), started(2, named=checkpoint(1)))
        scenario.when(lost(2, reason="checkpoint_unreadable", unreadable=checkpoint(1))).then_effect()
        scenario.when(started(3, named=checkpoint(1))).then_refused(Refusal.UNKNOWN_CHECKPOINT)

    def test_a_checkpoint_of_other_bytes_strikes_nothing(self) -> None:
        scenario = given(requested(), started(), epoch(1), saved(1), lost(), started(2, named=checkpoint(1)))
        other = checkpoint(1, sha256="0" * 64)
        effect = scenario.when(lost(2, reason="checkpoint_unreadable", unreadable=other)).then_effect()
        assert effect.struck is None
        scenario.when(started(3, named=checkpoint(1))).then_status(Status.RUNNING)


class TestModelRegistered:
    def test_it_completes_the_job_and_is_the_models_next_version(self) -> None:
        outcome = given(requested(), started(), epochs(1, 10)).when(model(10))
        outcome.then_job(
            status=Status.COMPLETED,
            worker=None,
            model=ModelVersion(name="iris", number=1),
            metrics={"accuracy": 0.9},
            ended_at=NOON + 13_000,
        )
        registered = outcome.then_effect().model
        assert registered is not None
        assert (registered.number, registered.job_id, registered.attempt, registered.dataset_id, registered.recipe) == (
            *(1, J, 1),
            *("dataset-1", "tabular"),
        )

    def test_it_must_name_the_last_effective_epoch(self) -> None:
        run = given(requested(), started(), epochs(1, 3))
        run.when(model(2)).then_refused(Refusal.OUT_OF_ORDER)
        run.when(model(4)).then_refused(Refusal.OUT_OF_ORDER)

    @pytest.mark.parametrize("wish", [stop, pause])
    def test_it_completes_a_job_that_somebody_wants_to_end(self, wish: Record) -> None:
        given(requested(), started(), wish).when(model(0)).then_status(Status.COMPLETED)

    def test_a_lost_attempt_is_fenced_and_takes_no_number(self) -> None:
        scenario = given(requested(), started(), lost())
        scenario.when(model(0)).then_refused(Refusal.FENCED)
        assert scenario.workspace.models == {}

    def test_versions_count_by_name(self) -> None:
        scenario = given(*(requested(f"job-{n}", model=name) for n, name in enumerate(["a", "b", "a", "a"])))
        numbers = []
        for n, name in enumerate(["a", "b", "a", "a"]):
            scenario.judge(started(job=f"job-{n}"))
            registered = scenario.when(model(0, name=name, job=f"job-{n}")).then_effect().model
            numbers.append((name, registered and registered.number))
        assert numbers == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]


class TestJobCompleted:
    def test_it_ends_a_job_that_gives_no_model(self) -> None:
        given(requested(), started(), epoch(1)).when(completed(1)).then_job(
            status=Status.COMPLETED, model=None, worker=None, ended_at=NOON + 4000
        )

    def test_it_must_name_the_last_effective_epoch(self) -> None:
        given(requested(), started(), epoch(1)).when(completed(0)).then_refused(Refusal.OUT_OF_ORDER)


class TestJobFailed:
    @pytest.mark.parametrize("wish", [[], [stop], [pause]])
    def test_it_fails_the_job_whatever_is_wanted(self, wish: list[Record]) -> None:
        given(requested(), started(), wish).when(failed()).then_job(
            status=Status.FAILED, worker=None, error=JobError(code="exception", exception="ValueError")
        )

    def test_it_is_no_loss(self) -> None:
        given(requested(), started()).when(failed()).then_job(losses=0, setbacks=0)
