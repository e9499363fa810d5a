"""W: what a socket was told is exactly what took effect, in order, once, or it was told that something is missing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from checker.fold import Fold
from checker.history import History
from checker.violation import Violation

Told = tuple[int, str, str, int]
"""Of an effective record of a job: the workspace's version, job, type, and the version of the job's record before."""


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """W1 and W2 for every logical session, W3 for what it may see."""
    by_workspace: dict[str, list[Told]] = defaultdict(list)
    by_job: dict[str, list[Told]] = defaultdict(list)
    for verdict in fold.verdicts:
        if verdict.version is not None and (verdict.workspace, verdict.subject) in fold.jobs:
            job = by_job[verdict.subject]
            told = (verdict.version, verdict.subject, verdict.type, job[-1][0] if job else 0)
            job.append(told)
            by_workspace[verdict.workspace].append(told)
    sessions: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for frame in history.frames:
        sessions[frame.session, frame.job_id, frame.workspace].append(frame.message)
    for (session, job_id, workspace), messages in sessions.items():
        effective = by_workspace[workspace] if workspace else by_job[job_id]
        yield from _one_session(session, job_id or f"workspace {workspace}", messages, effective)


def _one_session(
    session: str, watched: str, messages: list[dict[str, Any]], effective: list[Told]
) -> Iterator[Violation]:
    events = {told[0]: told for told in effective}
    order = [told[0] for told in effective]
    jobs = {told[1] for told in effective}
    last: int | None = None
    for message in messages:
        match message["type"]:
            case "subscribed" | "asked":
                if last is None:
                    last = message.get("since")
            case "resync":
                last = None
            case "end":
                missing = order[bisect_right(order, last) :] if last is not None else []
                if missing:
                    yield Violation("W2", f"{session}: {watched} ended at {missing[-1]} and was told up to {last}")
            case "job_update":
                version, told = message["version"], events.get(message["version"])
                if message["job_id"] not in jobs:
                    yield Violation("W3", f"{session} was told of {message['job_id']} while it watched {watched}")
                    continue
                if told is None or (told[1], told[2]) != (message["job_id"], message["event"]):
                    yield Violation(
                        "W1", f"{session}: {message['event']} at version {version} of {watched} never took effect"
                    )
                elif message["previous"] != told[3]:
                    yield Violation(
                        "W1", f"{session}: version {version} of {watched} names {message['previous']} as previous"
                    )
                elif last is not None and version <= last:
                    yield Violation("W1", f"{session}: version {version} of {watched} came after {last}")
                elif last is not None and bisect_left(order, version) > bisect_right(order, last):
                    yield Violation("W2", f"{session}: between {last} and {version} of {watched} something is missing")
                last = version
