"""Thousands of short schedules from seeds. A failure names its seed, and the seed repeats it.

`RAVAND_SIMULATION_SEED=n` plays one schedule and tells its story; `RAVAND_SIMULATION_SCHEDULES=n` plays so many, beginning
at 0. Otherwise as many are played as fit into a few seconds, always the same ones from the first on.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from domain.workspace import Effect
from tests.domain.ledger import Ledger
from tests.simulation.rough import run_rough
from tests.simulation.schedule import ScheduleFailed, run

SECONDS = 12.0
FEWEST = 200
SEED = os.environ.get("RAVAND_SIMULATION_SEED")
SCHEDULES = int(os.environ.get("RAVAND_SIMULATION_SCHEDULES", "0"))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Worlds are full of cycles; collecting them now and then is a third cheaper than whenever it seems due."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def play_many(play: Callable[[int], object], seconds: float) -> int:
    """As many schedules as were asked for, or fit."""
    began, seed = time.monotonic(), 0
    with without_garbage_collection():
        while seed < SCHEDULES or (SCHEDULES == 0 and (seed < FEWEST or time.monotonic() - began < seconds)):
            play(seed)
            seed += 1
            if seed % 500 == 0:
                gc.collect()
    return seed


@pytest.mark.timeout(3600)
def test_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    """Workers, supervisors, people, projectors, and a network that delays, repeats and forgets."""
    if SEED is not None:
        run(int(SEED), tracing=True)
        return
    counted = play_many(run, SECONDS)
    with capsys.disabled():
        print(f"\n  {counted} schedules", end="")


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SEED is not None, reason="one schedule was asked for")
def test_rough_histories(capsys: pytest.CaptureFixture[str]) -> None:
    """Records as nobody in order would write them."""
    counted = play_many(run_rough, SECONDS / 4)
    with capsys.disabled():
        print(f"\n  {counted} rough histories", end="")


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
