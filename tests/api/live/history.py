"""Made-up histories: facts as the projector would publish them."""

from __future__ import annotations

import msgspec

from domain.events import EpochCompleted
from schemas import envelope, facts
from schemas.job_view import JobView

LOG = "log-1"


def fact(workspace: str, job_id: str | None, version: int, previous: int, *, epoch: int = 1, pad: int = 0) -> bytes:
    """The fact of an epoch of a job; without one, a fact about something else."""
    event = EpochCompleted(attempt=1, worker="w", epoch=epoch, metrics={"loss": 0.5})
    record = envelope.record(
        event,
        id=f"e-{workspace}-{version}",
        source="test",
        subject=job_id or "dataset",
        time="2026-01-01T00:00:00Z",
        workspace=workspace,
        actor="w",
    )
    view = job_id and JobView(
        job_id=job_id,
        status="running",
        progress=1.0,
        epoch=epoch,
        epochs=1000,
        attempt=1,
        message="Epoch." + "." * pad,
        loss=0.5,
        metrics={"loss": 0.5},
    )
    return facts.splice(envelope.encode(record), version=version, previous=previous, at=0, job=view or None)


class Workspace:
    """A workspace's whole history, as it grows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts: list[bytes] = []
        self.jobs: list[str | None] = []
        self.positions: list[int] = []
        self._previous: dict[str | None, int] = {}

    def append(self, job_id: str | None, position: int, *, pad: int = 0) -> None:
        """One more record takes effect, at an offset of the log."""
        version = len(self.facts) + 1
        made = fact(self.name, job_id, version, self._previous.get(job_id, 0), pad=pad)
        self._previous[job_id] = version
        self.facts.append(made)
        self.jobs.append(job_id)
        self.positions.append(position)

    def versions_of(self, job_id: str | None, *, after: int = 0) -> list[int]:
        """The versions of a job's records, or of all jobs', above `after`."""
        return [
            version
            for version, about in enumerate(self.jobs, 1)
            if version > after and about is not None and job_id in (None, about)
        ]


def messages_of(frames: bytes) -> list[dict[str, object]]:
    """What stands in joined frames."""
    from api.live.frames import payloads

    return [msgspec.json.decode(payload) for payload in payloads(frames)]
