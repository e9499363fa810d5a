"""Twenty thousand short schedules from seeds. A failure names its seed, and the seed repeats it.

`RAVAND_SIMULATION_SEED=n` plays one schedule and tells its story; `RAVAND_SIMULATION_SCHEDULES=n` plays so many, beginning
at 0. They are played in four shares, so that the processes of a test run divide them.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from domain.workspace import Effect
from tests.domain.ledger import Ledger
from tests.simulation.rough import run_rough
from tests.simulation.schedule import ScheduleFailed, run

SHARES = 4
SEED = os.environ.get("RAVAND_SIMULATION_SEED")
SCHEDULES = int(os.environ.get("RAVAND_SIMULATION_SCHEDULES", "20000"))
ROUGH_HISTORIES = SCHEDULES // 4


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Worlds are full of cycles; collecting them now and then is a third cheaper than whenever it seems due."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def play_all(play: Callable[[int], object], seeds: Iterable[int]) -> None:
    """One after the other."""
    with without_garbage_collection():
        for played, seed in enumerate(seeds):
            play(seed)
            if played % 500 == 0:
                gc.collect()


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SEED is not None, reason="one schedule was asked for")
@pytest.mark.parametrize("share", range(SHARES))
def test_schedules(share: int) -> None:
    """Workers, supervisors, people, projectors, and a network that delays, repeats and forgets."""
    play_all(run, range(share, SCHEDULES, SHARES))


@pytest.mark.skipif(SEED is None, reason="no single schedule was asked for")
def test_the_schedule_that_was_asked_for() -> None:
    run(int(SEED or 0), tracing=True)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SEED is not None, reason="one schedule was asked for")
def test_rough_histories() -> None:
    """Records as nobody in order would write them."""
    play_all(run_rough, range(ROUGH_HISTORIES))


def test_a_schedule_is_a_function_of_its_seed() -> None:
    first, second = run(7), run(7)
    assert first.log == second.log
    assert first.verdicts == second.verdicts
    assert run(8).log != first.log


def test_a_failure_names_the_seed_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Ledger, *heard: object) -> None:
        raise AssertionError("planted")

    monkeypatch.setattr(Ledger, "hear", broken)
    with pytest.raises(ScheduleFailed, match="RAVAND_SIMULATION_SEED=3 repeats it"):
        run(3)


def test_schedules_reach_what_matters() -> None:
    """A simulation in which nothing bad happens would prove nothing."""
    refusals: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    attempts = 0
    for seed in range(150):
        world = run(seed)
        refusals.update("effective" if isinstance(verdict, Effect) else verdict.value for verdict in world.verdicts)
        ends.update(job.over or "paused" for job in world.ledger.jobs.values())
        attempts += sum(job.attempt for job in world.ledger.jobs.values())
    assert set(ends) == {"completed", "failed", "stopped", "paused"}
    assert attempts > 1.2 * ends.total(), "attempts are lost, and others follow them"
    assert {"effective", "fenced", "claim_lost", "duplicate", "out_of_order", "already_saved"} <= set(refusals)
