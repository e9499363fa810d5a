"""Idle workers share out the queue without talking to each other."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.claim_choice import PATIENCE_MS, Choice, IdleWorker, Opening, choose

NOW = 1_000_000
RECIPES = [("tabular", 1), ("tabular", 2), ("images", 1)]

openings = st.lists(
    st.builds(
        Opening,
        job_id=st.uuids().map(str),
        priority=st.integers(-3, 3),
        requested_at=st.integers(NOW - 50, NOW),
        recipe=st.sampled_from(RECIPES),
        not_before=st.sampled_from([0, NOW - 1, NOW, NOW + 1, NOW + 5000]),
        seen_at=st.just(NOW),
    ),
    max_size=8,
    unique_by=lambda job: job.job_id,
)
workers = st.lists(
    st.builds(IdleWorker, id=st.uuids().map(str), recipes=st.sets(st.sampled_from(RECIPES), min_size=1).map(frozenset)),
    min_size=1,
    max_size=5,
    unique_by=lambda worker: worker.id,
)


def opening(name: str, **changes: object) -> Opening:
    plain = Opening(name, priority=0, requested_at=1, recipe=RECIPES[0], not_before=0, seen_at=NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]


def able(*names: str) -> list[IdleWorker]:
    return [IdleWorker(name, frozenset(RECIPES)) for name in names]


class TestAnyQueue:
    @given(openings, workers)
    def test_no_two_idle_workers_choose_the_same_job(self, jobs: list[Opening], idle: list[IdleWorker]) -> None:
        chosen = [choose(jobs, idle, worker.id, NOW).job_id for worker in idle]
        taken = [job for job in chosen if job is not None]
        assert len(taken) == len(set(taken))

    @given(openings, workers)
    def test_what_is_chosen_may_be_claimed_now_and_can_be_trained(
        self, jobs: list[Opening], idle: list[IdleWorker]
    ) -> None:
        by_id = {job.job_id: job for job in jobs}
        for worker in idle:
            choice = choose(jobs, idle, worker.id, NOW)
            if choice.job_id is not None:
                assert by_id[choice.job_id].not_before <= NOW
                assert by_id[choice.job_id].recipe in worker.recipes

    @given(openings, workers)
    def test_no_job_waits_while_a_worker_that_could_train_it_has_none(
        self, jobs: list[Opening], idle: list[IdleWorker]
    ) -> None:
        choices = {worker.id: choose(jobs, idle, worker.id, NOW).job_id for worker in idle}
        left = [job for job in jobs if job.not_before <= NOW and job.job_id not in choices.values()]
        unused = [worker for worker in idle if choices[worker.id] is None]
        assert not any(job.recipe in worker.recipes for job in left for worker in unused)

    @given(openings, workers, st.randoms())
    def test_the_order_in_which_things_were_heard_changes_nothing(
        self, jobs: list[Opening], idle: list[IdleWorker], random: object
    ) -> None:
        before = [choose(jobs, idle, worker.id, NOW) for worker in idle]
        shuffled_jobs, shuffled_idle = jobs[:], idle[:]
        random.shuffle(shuffled_jobs)  # type: ignore[attr-defined]
        random.shuffle(shuffled_idle)  # type: ignore[attr-defined]
        assert [choose(shuffled_jobs, shuffled_idle, worker.id, NOW) for worker in idle] == before

    @given(openings, workers)
    def test_a_job_that_goes_first_is_taken_before_the_others(
        self, jobs: list[Opening], idle: list[IdleWorker]
    ) -> None:
        urgent = opening("urgent", priority=1000)
        by_all = [replace(worker, recipes=frozenset(RECIPES)) for worker in idle]
        first = min(worker.id for worker in idle)
        assert choose([*jobs, urgent], by_all, first, NOW).job_id == "urgent"

    @given(openings, workers)
    def test_asking_again_at_the_stated_time_is_soon_enough(self, jobs: list[Opening], idle: list[IdleWorker]) -> None:
        me = idle[0].id
        choice = choose(jobs, idle, me, NOW)
        if choice.job_id is None:
            before = choice.again_at - 1 if choice.again_at else NOW + 10 * PATIENCE_MS
            assert before >= NOW
            assert choose(jobs, idle, me, before).job_id is None

    @given(openings, workers)
    def test_every_job_that_somebody_can_train_is_chosen_in_the_end_though_only_one_worker_is_alive(
        self, jobs: list[Opening], idle: list[IdleWorker]
    ) -> None:
        me, left, now = idle[0], list(jobs), NOW
        while (choice := choose(left, idle, me.id, now)) != Choice(None, None):
            if choice.job_id is None:
                assert choice.again_at is not None
                assert choice.again_at > now
                now = choice.again_at
            left = [job for job in left if job.job_id != choice.job_id]
        assert not [job for job in left if job.recipe in me.recipes]


class TestTurns:
    def test_the_kth_idle_worker_takes_the_kth_job(self) -> None:
        jobs = [opening("third", requested_at=3), opening("first", priority=5), opening("second", requested_at=2)]
        idle = able("c", "a", "b")
        assert [choose(jobs, idle, me, NOW).job_id for me in "abc"] == ["first", "second", "third"]

    def test_a_backoff_is_obeyed_to_the_millisecond(self) -> None:
        job = opening("job", not_before=NOW + 1)
        assert choose([job], able("a"), "a", NOW) == Choice(None, NOW + 1)
        assert choose([job], able("a"), "a", NOW + 1) == Choice("job", None)

    def test_a_worker_that_does_not_take_its_turn_is_passed_over(self) -> None:
        job = opening("job")
        assert choose([job], able("dead", "me"), "me", NOW) == Choice(None, NOW + PATIENCE_MS)
        assert choose([job], able("dead", "me"), "me", NOW + PATIENCE_MS).job_id == "job"

    def test_a_job_whose_recipe_nobody_has_is_in_nobodys_way(self) -> None:
        jobs = [opening("strange", priority=9, recipe=("strange", 1)), opening("plain")]
        assert choose(jobs, able("a"), "a", NOW).job_id == "plain"
