"""W: what a socket was told is exactly what took effect, in order, once, or it was told that something is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from checker.fold import Fold
from checker.history import History
from checker.violation import Violation


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """W1 and W2 for every logical session, W3 for what it may see."""
    effective: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for verdict in fold.verdicts:
        if verdict.version is not None and (verdict.workspace, verdict.subject) in fold.jobs:
            effective[verdict.subject].append((verdict.version, verdict.type))
    sessions: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for frame in history.frames:
        sessions[frame.session, frame.job_id].append(frame.message)
    for (session, job_id), messages in sessions.items():
        yield from _one_session(session, job_id, messages, effective[job_id])


def _one_session(
    session: str, job_id: str, messages: list[dict[str, Any]], effective: list[tuple[int, str]]
) -> Iterator[Violation]:
    events = dict(effective)
    previous = {
        version: before for (version, _), before in zip(effective, [0, *(v for v, _ in effective)], strict=False)
    }
    last: int | None = None
    for message in messages:
        match message["type"]:
            case "subscribed":
                if last is None:
                    last = message.get("since")
            case "resync":
                last = None
            case "job_update":
                version = message["version"]
                if message["job_id"] != job_id:
                    yield Violation("W3", f"{session} was told of {message['job_id']} while it watched {job_id}")
                    continue
                if events.get(version) != message["event"]:
                    yield Violation(
                        "W1", f"{session}: {message['event']} at version {version} of {job_id} never took effect"
                    )
                elif message["previous"] != previous[version]:
                    yield Violation(
                        "W1", f"{session}: version {version} of {job_id} names {message['previous']} as previous"
                    )
                elif last is not None and version <= last:
                    yield Violation("W1", f"{session}: version {version} of {job_id} came after {last}")
                elif last is not None and any(last < v < version for v in events):
                    yield Violation("W2", f"{session}: between {last} and {version} of {job_id} something is missing")
                last = version
