"""With any one rule of the automaton switched off, the simulation finds a violation: it would have noticed.

The rules are listed in `mutants.py`, and in docs/simulation.md with what finds each (`python -m tests.simulation.mutation_table`
writes it). Two more guards have no line there, since another one stands behind each: the status
in `Job.is_held_by` (whoever holds nothing has no worker), and the id of a job's request, which the job's own existence repeats.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.mutation_table import PAGE, SCHEDULES, first_violation
from tests.simulation.schedule import ScheduleFailed, run


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_it_something_breaks(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    assert first_violation() is not None


# What a world of mere delays, crashes and impatience runs into by itself, without anybody writing nonsense.
NEEDED_EVERY_DAY = {
    "the first occurrence of a request's id decides",
    "only a queued job is claimed",
    "EpochCompleted comes from the holder",
    "CheckpointSaved comes from the holder",
    "AttemptLost comes from the holder",
    "ModelRegistered comes from the holder",
    "what is wanted decides what an ended attempt comes to",
    "without an attempt a stop is at once",
    "an attempt begins at its checkpoint",
    "too many losses fail the job",
}


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.rule in NEEDED_EVERY_DAY], ids=lambda mutant: mutant.rule)
def test_without_it_ordinary_schedules_break(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    with pytest.raises(ScheduleFailed):  # noqa: PT012 — whichever seed it is.
        for seed in range(SCHEDULES):
            run(seed)


def test_every_rule_has_its_own_line() -> None:
    rules = [mutant.rule for mutant in MUTANTS]
    assert len(rules) == len(set(rules))
    assert set(rules) >= NEEDED_EVERY_DAY


def test_the_page_lists_every_rule() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [mutant.rule for mutant in MUTANTS if f"| {mutant.rule} |" not in page] == []
