"""What a worker says to a child that it wants something trained by."""

from __future__ import annotations

from domain.events import DatasetRef
from workers.child_messages import Train

TRAIN = Train(
    workspace="w",
    job_id="job",
    attempt=1,
    recipe="tabular",
    recipe_version=1,
    parameters={},
    epochs=1,
    dataset=DatasetRef(id="d", uri="datasets/d", sha256="0" * 64, format="csv"),
    checkpoint=None,
    store_url="file:///nowhere",
    scratch="/nowhere",
    device="cpu",
    threads=1,
)
"""Of a dataset that is nowhere."""
