"""All invariants over one history."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from checker import (
    job_invariants,
    log_invariants,
    published_invariants,
    row_invariants,
    security_invariants,
    socket_invariants,
)
from checker.fold import Fold, fold
from checker.history import History
from checker.violation import Violation

_ALL = (
    log_invariants,
    job_invariants,
    row_invariants,
    published_invariants,
    socket_invariants,
    security_invariants,
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what was found."""

    records: int
    effective: int
    refused: Counter[str]
    unknown_outcomes: int
    frames: int
    violations: list[Violation]
    fold: Fold

    @property
    def proved_nothing(self) -> str | None:
        """Why a run without violations says little: nothing was fenced, or no outcome was unknown."""
        if not self.refused["fenced"]:
            return "no record of a lost attempt was refused"
        if not self.unknown_outcomes:
            return "no client was left without an answer"
        return None


def check(history: History) -> Report:
    """Fold the log by the plain rules and hold everything else against it."""
    folded = fold(history.log, history.partitions)
    violations = [violation for invariants in _ALL for violation in invariants.check(history, folded)]
    return Report(
        records=len(history.log),
        effective=sum(1 for verdict in folded.verdicts if verdict.effective),
        refused=Counter(verdict.refusal for verdict in folded.verdicts if verdict.refusal),
        unknown_outcomes=sum(1 for call in history.calls if call.outcome == "unknown"),
        frames=len(history.frames),
        violations=violations,
        fold=folded,
    )
