"""`python -m tests.simulation.mutation_table`: writes into docs/simulation.md what finds each rule that is switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.rough import run_rough
from tests.simulation.schedule import ScheduleFailed, run

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
_BEGIN, _END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
ROUGH_HISTORIES = 6_000
SCHEDULES = 300


def first_violation() -> str | None:
    """What is found first, if anything: its seed, and the sentence that does not hold."""
    for play, seeds in ((run_rough, ROUGH_HISTORIES), (run, SCHEDULES)):
        for seed in range(seeds):
            try:
                play(seed)
            except ScheduleFailed as found:
                return str(found).splitlines()[0]
    return None


def row(mutant: Mutant) -> str:
    """One line of the table."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        found = first_violation() or "**nothing**"
    seed, _, sentence = found.partition(": ")
    return f"| {mutant.rule} | {seed} | {sentence.replace('|', '/')} |"


def main() -> None:
    """Switch off each rule in turn, and write the table."""
    rows = [row(mutant) for mutant in MUTANTS]
    table = "\n".join(["| without this rule | found by | what does not hold any more |", "|---|---|---|", *rows])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    print(f"{len(rows)} rules, {sum('**nothing**' in line for line in rows)} of them not missed; written to {PAGE}")


if __name__ == "__main__":
    main()
