"""A reader of the table holds the newest version of every row, whatever comes late, twice or unreadable."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.events import DatasetRef, JobRequested
from domain.job import Job, Status, request
from schemas.facts import VERSION_HEADER
from schemas.tables import OpenJob, encode_open_job
from workers.job_table import JobTable
from workers.standing import Standing, standing


@dataclass
class Record:
    """As much of a consumer's record as is read."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    offset: int = 0


def job(version: int, id: str = "job") -> Job:
    dataset = DatasetRef(id="d", uri="d", sha256="0", format="csv")
    asked = JobRequested(
        name="j", recipe="r", recipe_version=1, parameters={}, epochs=9, dataset=dataset, model="m", max_losses=3
    )
    return request(asked, job_id=id, actor="u", at=0, version=version)


def row(version: int, id: str = "job") -> Record:
    value = encode_open_job(OpenJob(workspace="ws", job=job(version, id)))
    return Record(id.encode(), value, [(VERSION_HEADER, str(version).encode())])


def tombstone(version: int, id: str = "job") -> Record:
    return Record(id.encode(), None, [(VERSION_HEADER, str(version).encode())])


def table() -> JobTable[int]:
    return JobTable(lambda read: read.job.version)


class TestVersions:
    @given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=12))
    def test_in_any_order_the_newest_wins_and_a_tombstone_too(self, history: list[tuple[int, bool]]) -> None:
        # One version is one state: a row or a tombstone, not both.
        ended = dict(history)
        held = table()
        for version, _ in history:
            held.apply([tombstone(version) if ended[version] else row(version)])
        newest = max(ended)
        assert held.version_of("job") == newest
        assert {id: kept.value for id, kept in held.rows.items()} == ({} if ended[newest] else {"job": newest})

    def test_an_older_row_does_not_bring_an_ended_job_back(self) -> None:
        held = table()
        assert held.apply([tombstone(5)]) == ["job"]
        assert held.apply([row(4)]) == []
        assert held.rows == {}

    def test_the_same_row_once_more_is_news(self) -> None:
        held = table()
        held.apply([row(3)])
        assert held.apply([row(3)]) == ["job"]

    def test_a_row_without_the_header_goes_by_its_own_version(self) -> None:
        held = table()
        bare = row(3)
        bare.headers.clear()
        assert held.apply([bare]) == ["job"]
        assert held.version_of("job") == 3


class TestStrangeRecords:
    def test_what_cannot_be_read_is_left_out_and_the_rest_goes_on(self) -> None:
        held = table()
        strange = [
            Record(b"job", b"no json"),
            Record(None, b"{}"),
            Record(b"\xff", None),
            Record(b"job", None, [(VERSION_HEADER, b"many")]),
            Record(b"job", b'{"workspace": 3}'),
        ]
        assert held.apply([*strange, row(1)]) == ["job"]


class TestStanding:
    def test_queued_before_the_attempt_is_open(self) -> None:
        assert standing(job(1), "me", 1) is Standing.OPEN

    def test_ours_in_any_running_state_is_held(self) -> None:
        for status in (Status.RUNNING, Status.STOPPING, Status.PAUSING):
            held = replace(job(2), status=status, attempt=1, worker="me")
            assert standing(held, "me", 1) is Standing.HELD
            assert standing(held, "other", 1) is Standing.OVER
            assert standing(held, "me", 2) is Standing.OPEN

    def test_a_later_attempt_or_an_end_is_over(self) -> None:
        assert standing(replace(job(2), attempt=2, worker="me", status=Status.RUNNING), "me", 1) is Standing.OVER
        assert standing(replace(job(2), attempt=1, status=Status.QUEUED), "me", 1) is Standing.OVER
        assert standing(None, "me", 1) is Standing.OVER
