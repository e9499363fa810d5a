"""The open jobs as one worker sees them: who holds what, what is its own, and what it could claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from adapters.kafka import partition_of
from domain.job import Job, Status
from schemas.tables import OpenJob
from schemas.topics import EVENTS
from workers.claim_choice import Opening
from workers.job_table import JobTable, Row

_UNANSWERED = -1
"""No row has this version."""
Key = tuple[str, int]
"""A job and the number of an attempt at it."""


class OpenJobs:
    """Follows `ravand.jobs` for a worker."""

    def __init__(self, me: str, now: Callable[[], int]) -> None:
        """`me` is the worker's id; `now` tells the broker's time in milliseconds, 0 while it is not known."""
        self._me = me
        self._now = now
        self._table: JobTable[OpenJob] = JobTable(lambda row: row)
        self._seen_at: dict[str, int] = {}
        """When each queued job was first seen queued."""
        self._holders: dict[str, tuple[str, int]] = {}
        """Job → (worker, attempt), of every attempt that is running somewhere."""
        self._in_vain: dict[str, int] = {}
        """Job → version of its row when our claim was refused: not claimed again while that stays the same. For a claim that
        was taken back unanswered `_UNANSWERED`: not claimed again before there is news of the job."""
        self._silent: set[int] = set()
        """Partitions of the log in which a claim of ours got no answer, and no news has come from since."""
        self.ours: set[Key] = set()
        """What the table shows as this worker's."""

    def __len__(self) -> int:
        return len(self._table.rows)

    def apply(self, records: Iterable[object]) -> list[str]:
        """Take in records; the ids of the jobs of which there was news."""
        news = self._table.apply(records)
        for job_id in news:
            self._note(job_id)
        return news

    def row(self, job_id: str) -> Row[OpenJob] | None:
        """The newest row; None once the job is over."""
        return self._table.rows.get(job_id)

    def job(self, job_id: str) -> Job | None:
        """The job in it."""
        row = self.row(job_id)
        return row.value.job if row is not None else None

    def version_of(self, job_id: str) -> int:
        """The newest version heard of, of a job or of its end."""
        return self._table.version_of(job_id)

    def holding(self) -> set[str]:
        """The workers that have an attempt."""
        return {worker for worker, _ in self._holders.values()}

    def claimed_in_vain(self, job_id: str) -> None:
        """Leave the job alone until its row changes, or `try_again` is called."""
        if job_id in self._table.rows:
            self._in_vain[job_id] = self._table.version_of(job_id)

    def try_again(self, job_id: str) -> None:
        """Claim the job again though its row is the same: a row that came while the claim was under way, and was no
        answer to it, must not keep us away from the job for ever."""
        self._in_vain.pop(job_id, None)

    def taken_back(self, workspace: str, job_id: str) -> None:
        """A claim got no answer. The job is left alone until there is news of it, since the claim still lies on the log and
        the same attempt must not be claimed twice; all of its partition, until there is news of any job there."""
        self._in_vain[job_id] = _UNANSWERED
        self._silent.add(_home(workspace))

    def listen_again(self, workspace: str, job_id: str) -> None:
        """Claim there again, though there was no news: a lost row must not keep us away for ever."""
        self._silent.discard(_home(workspace))
        if self._in_vain.get(job_id) == _UNANSWERED:
            del self._in_vain[job_id]

    def openings(self, claiming: set[Key], *, elsewhere: str | None = None) -> list[Opening]:
        """What could be claimed. `claiming` are attempts that others are claiming at this moment; `elsewhere`: nothing of
        the partition in which that workspace lives."""
        now = self._now()
        avoided = self._silent if elsewhere is None else self._silent | {_home(elsewhere)}
        openings = []
        for job_id, seen_at in self._seen_at.items():
            row = self._table.rows[job_id].value
            job = row.job
            if job_id in self._in_vain or (job_id, job.attempt + 1) in claiming:
                continue
            if avoided and _home(row.workspace) in avoided:
                continue
            if seen_at == 0:  # It was there before we knew the time: for us it begins to wait now.
                seen_at = self._seen_at[job_id] = now
            recipe = (job.spec.recipe, job.spec.recipe_version)
            openings.append(Opening(job_id, job.priority, job.requested_at, recipe, job.not_before, seen_at))
        return openings

    def _note(self, job_id: str) -> None:
        row = self._table.rows.get(job_id)
        job = row.value.job if row is not None else None
        if self._silent and row is not None:
            self._silent.discard(_home(row.value.workspace))
        if job is not None and job.status is Status.QUEUED:
            self._seen_at.setdefault(job_id, self._now())
        else:
            self._seen_at.pop(job_id, None)
        if row is None or self._in_vain.get(job_id, row.version) != row.version:
            self._in_vain.pop(job_id, None)
        self._note_holder(job_id, job)

    def _note_holder(self, job_id: str, job: Job | None) -> None:
        before = self._holders.pop(job_id, None)
        if before is not None:
            self.ours.discard((job_id, before[1]))
        if job is not None and job.worker is not None:
            self._holders[job_id] = (job.worker, job.attempt)
            if job.worker == self._me:
                self.ours.add((job_id, job.attempt))


def _home(workspace: str) -> int:
    return partition_of(workspace.encode(), EVENTS.partitions)
