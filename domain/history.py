"""Which epochs count: the chain of attempts that leads to where a job is now."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from domain.job import Origin


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Epochs `after` < epoch ≤ `through` of one attempt; `through` None means up to its last."""

    attempt: int
    after: int
    through: int | None


def chain(origins: Sequence[Origin]) -> list[Segment]:
    """The segments of the curve, oldest first.

    What an attempt did beyond the checkpoint that its successor names is superseded; the rest is kept by attempt.
    """
    by_attempt = {origin.attempt: origin for origin in origins}
    segments: list[Segment] = []
    attempt, through = (origins[-1].attempt if origins else 0), None
    while attempt:
        origin = by_attempt[attempt]
        if through is None or through > origin.epoch:
            segments.append(Segment(attempt, origin.epoch, through))
        # An ancestor counts up to where this attempt left it, and no further than its own successor needs.
        through = origin.epoch if through is None else min(through, origin.epoch)
        attempt = origin.parent
    return segments[::-1]
