"""Where in the object store checkpoints lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

FOLDER = "jobs"
"""What belongs to jobs, each in a folder of its own."""
_KEY = re.compile(r"jobs/(?P<job>[^/]+)/(?P<attempt>[0-9]+)/checkpoint-[^/]+")


class Place(NamedTuple):
    """What the key of a checkpoint says."""

    job_id: str
    attempt: int


def key_of(job_id: str, attempt: int, epoch: int, step: int) -> str:
    """The key of a checkpoint."""
    return f"{FOLDER}/{job_id}/{attempt}/checkpoint-{epoch}-{step}.safetensors"


def place_of(key: str) -> Place | None:
    """Whose checkpoint lies under this key; None for whatever is no checkpoint."""
    match = _KEY.fullmatch(key)
    return Place(match["job"], int(match["attempt"])) if match else None


def checkpoints_among(keys: Iterable[str], job_id: str, *, through_attempt: int) -> list[str]:
    """Those of the keys that are checkpoints of the job's attempts up to this one."""
    found = [(key, place) for key in keys if (place := place_of(key)) and place.job_id == job_id]
    return [key for key, place in found if place.attempt <= through_attempt]
