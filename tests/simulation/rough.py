"""Records as nobody in order would write them: strangers, wrong numbers, copies at any time. Safety alone is watched."""

from __future__ import annotations

import random

from tests.domain.ledger import Ledger
from tests.domain.moves import JOBS, KINDS, WORKERS, Move, play
from tests.simulation.schedule import ScheduleFailed


def run_rough(seed: int, moves: int = 60) -> None:
    """A history from the seed. Raises `ScheduleFailed`."""
    chosen = random.Random(seed)
    # Some kinds of moves are left out, others in each history: what needs the same few in a row is met sooner.
    left_out = {kind for kind in sorted(set(KINDS) - {"claim"}) if chosen.random() < 0.4}
    kinds = [kind for kind in KINDS if kind not in left_out]
    history = [
        Move(chosen.choice(kinds), chosen.randrange(len(JOBS)), chosen.randrange(len(WORKERS)), chosen.randrange(64))
        for _ in range(moves)
    ]
    ledger = Ledger()
    try:
        for id, record, _, verdict in play(history):
            ledger.hear(id, record, verdict)
    except Exception as error:
        raise ScheduleFailed(f"rough seed {seed}: {str(error) or type(error).__name__}") from error
