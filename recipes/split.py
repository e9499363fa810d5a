"""Which rows are kept aside to measure on: by the seed alone, so every attempt at a job takes the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def split(rows: int, fraction: float, seed: int, classes: Rows | None = None) -> tuple[Rows, Rows]:
    """Row numbers to train on and to measure on, sorted; with `classes`, each class gives about the same share.

    A class always keeps a row to train on, and so does the whole. With a fraction above 0 at least one row is measured on.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(rows)
    if fraction == 0:
        return np.sort(shuffled), shuffled[:0]
    wanted = min(rows - 1, max(1, round(rows * fraction)))
    if classes is not None:
        shuffled = by_share(shuffled, classes)
        trainable = rows - len(np.unique(classes))
        wanted = max(1, min(wanted, trainable)) if trainable else 0
    return np.sort(shuffled[wanted:]), np.sort(shuffled[:wanted])


def by_share(shuffled: Rows, classes: Rows) -> Rows:
    """Reorder so that any stretch from the beginning holds every class in proportion, and one row of each comes last."""
    position = np.empty(len(shuffled), dtype=np.float64)
    for name in np.unique(classes):
        members = np.flatnonzero(classes[shuffled] == name)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
        position[members[-1]] = 2.0
    return shuffled[np.argsort(position, kind="stable")]
