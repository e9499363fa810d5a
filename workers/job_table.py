"""The table of open jobs as a reader holds it: the newest version of every row, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from schemas.facts import VERSION_HEADER
from schemas.tables import OpenJob, decode_open_job

T = TypeVar("T")
ENDED_KEPT = 20_000
"""How many versions of ended jobs are remembered, so that a late copy of an older row does not bring a job back."""


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """What a reader keeps of one open job. `version` is the workspace's at the job's last effective record."""

    value: T
    version: int


class JobTable(Generic[T]):
    """Folds the records of `ravand.jobs`. A row of an older version is ignored, tombstones included.

    A row of the version that is known already counts as news: the projector publishes a row again when it has refused a
    claim, and that is how the claimer learns of it.
    """

    def __init__(self, keep: Callable[[OpenJob], T]) -> None:
        """`keep` takes from a row what this reader needs; a supervisor needs little."""
        self._keep = keep
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._log = structlog.get_logger("jobs")
        self.rows: dict[str, Row[T]] = {}

    def apply(self, records: Iterable[Any]) -> list[str]:
        """Take in records in the order of their partition; the ids of the jobs of which there was news."""
        news: dict[str, None] = {}
        for record in records:
            job_id = (record.key or b"").decode(errors="replace")
            try:
                accepted = self._ended_job(job_id, record) if record.value is None else self._open_job(job_id, record)
            except (msgspec.MsgspecError, ValueError) as error:
                # The log is what counts; a row that nobody can read must not stop all the others.
                self._log.error("a row cannot be read", job=job_id, offset=record.offset, error=str(error))
                continue
            if accepted:
                news[job_id] = None
        return list(news)

    def version_of(self, job_id: str) -> int:
        """The newest version heard of; 0 for a job never heard of."""
        row = self.rows.get(job_id)
        return row.version if row is not None else self._ended.get(job_id, 0)

    def _open_job(self, job_id: str, record: Any) -> bool:
        row = decode_open_job(record.value)
        version = _version(record) or row.job.version
        if version < self.version_of(job_id):
            return False
        self._ended.pop(job_id, None)
        self.rows[job_id] = Row(self._keep(row), version)
        return True

    def _ended_job(self, job_id: str, record: Any) -> bool:
        version = _version(record)
        if version is None:
            raise ValueError("a tombstone without a version")
        if version < self.version_of(job_id):
            return False
        self.rows.pop(job_id, None)
        self._ended[job_id] = version
        self._ended.move_to_end(job_id)
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        return True


def _version(record: Any) -> int | None:
    for name, value in record.headers:
        if name == VERSION_HEADER:
            return int(value)
    return None
