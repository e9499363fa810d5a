"""Following a job over a socket that breaks: every event once, in order, and an end only where the job rests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cli import live
from cli.errors import CommandError
from cli.live import follow
from cli.server import Server

SERVER = Server("http://127.0.0.1:1", None)


def subscribed(status: str, version: int) -> dict[str, Any]:
    return {
        "type": "subscribed",
        "job_id": "j",
        "job": {"status": status, "version": version},
        "version": version,
        "log": "l1",
    }


def update(version: int, previous: int, status: str = "running") -> dict[str, Any]:
    return {
        "type": "job_update",
        "job_id": "j",
        "version": version,
        "previous": previous,
        "status": status,
        "event": "E",
    }


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[dict[str, Any]]], list[int]]:
    """Scripted connections, each ending in a cut; and the `since` with which each was asked for."""
    script: list[list[dict[str, Any]]] = []
    asked: list[int] = []

    def connection(server: Server, job_id: str, last: int, log: str | None) -> Iterator[dict[str, Any]]:
        asked.append(last)
        yield from script.pop(0)
        raise OSError("cut")

    monkeypatch.setattr(live, "_connection", connection)
    monkeypatch.setattr("cli.live.time.sleep", lambda _: None)
    return script, asked


def versions(messages: Iterator[dict[str, Any]]) -> list[int]:
    return [m["version"] for m in messages if m["type"] == "job_update"]


def test_a_cut_connection_goes_on_from_the_last_version(connections: Any) -> None:
    script, asked = connections
    script[:] = [
        [subscribed("running", 2), update(1, 0), update(2, 1)],
        [subscribed("running", 4), update(3, 2), update(4, 3, "completed")],
    ]
    assert versions(follow(SERVER, "j")) == [1, 2, 3, 4]
    assert asked == [0, 2]


def test_what_comes_again_is_dropped(connections: Any) -> None:
    script, _ = connections
    script[:] = [[subscribed("running", 2), update(1, 0), update(1, 0), update(2, 1, "completed")]]
    assert versions(follow(SERVER, "j")) == [1, 2]


def test_a_gap_is_never_passed_over(connections: Any) -> None:
    script, _ = connections
    script[:] = [[subscribed("running", 1), update(1, 0), update(3, 2)]]
    with pytest.raises(live.Gap):
        versions(follow(SERVER, "j"))


def test_an_end_that_a_retry_has_left_is_no_rest(connections: Any) -> None:
    script, _ = connections
    script[:] = [
        [
            subscribed("running", 4),
            update(1, 0),
            update(2, 1, "stopped"),
            update(3, 2, "queued"),
            update(4, 3),
            update(5, 4, "completed"),
        ]
    ]
    assert versions(follow(SERVER, "j")) == [1, 2, 3, 4, 5]


def test_a_job_that_rests_already_is_followed_no_further(connections: Any) -> None:
    script, _ = connections
    script[:] = [[subscribed("completed", 7)]]
    assert versions(follow(SERVER, "j", since=7)) == []


def test_another_history_starts_over(connections: Any) -> None:
    script, asked = connections
    script[:] = [
        [subscribed("running", 5), update(5, 0), {"type": "resync"}],
        [subscribed("running", 2), update(1, 0), update(2, 1, "failed")],
    ]
    assert versions(follow(SERVER, "j")) == [5, 1, 2]
    assert asked == [0, 0]


def test_a_server_that_stays_away_is_given_up_with_words(connections: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script, _ = connections
    script[:] = [[] for _ in range(1000)]
    now = iter(range(0, 100_000, 5))
    monkeypatch.setattr("cli.live.time.monotonic", lambda: float(next(now)))
    with pytest.raises(CommandError, match="goes on without you"):
        versions(follow(SERVER, "j"))
