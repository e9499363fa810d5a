"""What is announced with a commit: how far the partition is, and the verdicts on the requests in it."""

from __future__ import annotations

import uuid
from typing import Any

from projections import announcements
from tests.projections.platform import Log, project
from tests.projections.records import dataset_registered, job_requested, written


def _row(id: str) -> tuple[Any, ...]:
    return ("team", id, 3, 1, "ravand.JobRequested", id, 7, None, "h" * 64)


def test_more_verdicts_than_one_announcement_holds_are_left_to_the_table() -> None:
    assert announcements.verdicts(3, 1, []) == ""
    told = announcements.decode(announcements.verdicts(3, 9, [_row(str(number)) for number in range(20)]))
    assert (told.partition, told.next_offset, len(told.verdicts)) == (3, 9, 20)
    assert announcements.verdicts(3, 9, [_row(str(number)) for number in range(80)]) == ""


async def test_the_verdicts_on_a_few_requests_come_before_their_commit(log: Log) -> None:
    dataset, job = str(uuid.uuid4()), str(uuid.uuid4())
    await log.write([written(dataset_registered(), workspace="team", subject=dataset, id=dataset)])
    await project(log)
    heard: list[tuple[str, str]] = []

    def hear(_connection: Any, _pid: int, channel: str, payload: str) -> None:
        heard.append((channel, payload))

    for channel in (announcements.VERDICTS, announcements.COMMITS):
        await log.database.add_listener(channel, hear)
    request = written(job_requested(dataset), workspace="team", subject=job, id=job, request_hash="hash")
    unknown = written(job_requested("no-such"), workspace="team", subject="other", id="other")
    await log.write([request, request, unknown])
    await project(log)
    await log.database.fetchval("SELECT 1")  # What was sent to this session has come when it answers.

    [(channel, payload), (then, position)] = heard
    assert (channel, then) == (announcements.VERDICTS, announcements.COMMITS)
    told = announcements.decode(payload)
    assert announcements.commit(told.partition, told.next_offset) == position
    assert [(it.id, it.subject, it.version, it.refusal, it.requesthash) for it in told.verdicts] == [
        (job, job, 2, None, "hash"),
        ("other", "other", None, "unknown_dataset", None),
    ]
    stored = await log.database.fetch(
        "SELECT id, version, refusal FROM log.requests WHERE type = 'ravand.JobRequested'"
    )
    assert {tuple(row) for row in stored} == {(it.id, it.version, it.refusal) for it in told.verdicts}
