"""What a worker could claim, as it sees it: a claim in vain keeps it away from a job for a while, never for ever."""

from __future__ import annotations

from tests.workers.test_job_table import row, tombstone
from workers.open_jobs import OpenJobs


def jobs() -> OpenJobs:
    return OpenJobs("me", lambda: 1_000)


def offered(held: OpenJobs) -> list[str]:
    return [opening.job_id for opening in held.openings(set())]


def test_a_queued_job_can_be_claimed() -> None:
    held = jobs()
    held.apply([row(1)])
    assert offered(held) == ["job"]


def test_a_job_that_was_claimed_in_vain_is_left_alone_while_its_row_is_the_same() -> None:
    held = jobs()
    held.apply([row(1)])
    held.claimed_in_vain("job")
    held.apply([row(1)])
    assert offered(held) == []


def test_a_newer_row_can_be_claimed_again() -> None:
    held = jobs()
    held.apply([row(1)])
    held.claimed_in_vain("job")
    held.apply([row(2)])
    assert offered(held) == ["job"]


def test_a_row_that_came_while_the_claim_was_given_up_keeps_nobody_away_for_ever() -> None:
    held = jobs()
    held.apply([row(1)])
    held.apply([row(2)])  # No answer to the claim at version 1, and marked all the same.
    held.claimed_in_vain("job")
    held.try_again("job")
    assert offered(held) == ["job"]


def test_trying_again_brings_back_no_job_that_is_over() -> None:
    held = jobs()
    held.apply([row(1)])
    held.claimed_in_vain("job")
    held.apply([tombstone(2)])
    held.try_again("job")
    assert offered(held) == []


def test_an_attempt_whose_claim_was_taken_back_unanswered_is_not_claimed_twice() -> None:
    held = jobs()
    held.apply([row(1), row(1, id="another")])
    held.taken_back("ws", "job")
    assert offered(held) == []
    held.apply([row(2, id="another")])  # Its partition is judged again; our claim may still lie before the projector.
    assert offered(held) == ["another"]
    held.apply([row(1)])  # How a refused claim is answered.
    assert sorted(offered(held)) == ["another", "job"]


def test_a_lost_answer_keeps_nobody_away_for_ever() -> None:
    held = jobs()
    held.apply([row(1)])
    held.taken_back("ws", "job")
    held.listen_again("ws", "job")
    assert offered(held) == ["job"]
