"""Which of a job's checkpoints are kept: the two newest and the best one. The others cost space and serve nobody."""

from __future__ import annotations

from collections.abc import Sequence

from domain.job import SavedCheckpoint

KEPT = 2
"""Of the newest, since the newest may turn out to be unreadable."""


def surplus(saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
    """Those of the effective checkpoints, in log order, that are not kept. The newest that was best when saved is the best."""
    kept = list(saved[-KEPT:])
    best = next((one for one in reversed(saved) if one.best), None)
    return [one for one in saved if one not in kept and one is not best]
