"""How long it took until things worked again, for each fault: worst, median, and how often."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from checker.fold import Fold
from checker.history import Fault

ENDS = ("ModelRegistered", "JobFailed", "JobStopped", "JobPaused", "JobStopRequested")

IN_FLIGHT_SECONDS = 0.3
"""What a killed worker had sent may land this much later."""


@dataclass(frozen=True)
class Recovery:
    """Of one kind of fault: seconds from the fault (from its end, for one that was undone) until it was overcome."""

    kind: str
    count: int
    median: float
    worst: float
    overlapped: int
    """How often another fault came before it was overcome, or the run ended; these are not in the times."""


def times(faults: list[Fault], fold: Fold, answered: list[tuple[float, float]]) -> list[Recovery]:
    """For a fault that hit a training: until its attempt was given up, and until the job's next epoch or end (from the
    fault on, also for a frozen worker: others must take over). For any other: until a write that began after it was answered.
    The pauses of `ravand up` before it starts a process again are part of it.
    """
    found: dict[str, list[float | None]] = defaultdict(list)
    for index, fault in enumerate(faults):
        following = faults[index + 1].at if index + 1 < len(faults) else float("inf")
        name = f"{fault.what} {service(fault.target)}".strip()
        if fault.job:
            lost, goes_on = _attempt(fault, fold)
            if lost is not None:
                found[f"{name}: its job is queued again"].append(_alone(fault.at, lost, following))
            found[f"{name}: its job goes on"].append(_alone(fault.at, goes_on, following))
        else:
            ends = [ended - fault.until for began, ended in answered if began >= fault.until]
            found[name].append(_alone(fault.until, min(ends, default=None), following))
    return [_summary(kind, values) for kind, values in sorted(found.items())]


def _alone(since: float, seconds: float | None, following: float) -> float | None:
    """The time, if no other fault came in between."""
    return seconds if seconds is not None and since + seconds <= following else None


def service(target: str) -> str:
    """What was hit, without its number."""
    return " ".join(word for word in target.split() if not word.isdigit())


def _attempt(fault: Fault, fold: Fold) -> tuple[float | None, float | None]:
    """Seconds until the attempt that was hit was given up, if it was, and until the job went on or ended.

    By the broker's clock, which is this machine's. Going on may have to wait for a worker: the other one trains too, and
    the one that was hit has to start again.
    """
    attempt: int | None = None
    lost: float | None = None
    for verdict in fold.verdicts:
        if not verdict.effective or verdict.subject != fault.job or verdict.document is None:
            continue
        at, data = verdict.record.timestamp / 1000, verdict.document["data"]
        if at <= fault.at:
            attempt = data.get("attempt", attempt)
        elif verdict.type == "AttemptLost" and data["attempt"] == attempt:
            lost = at - fault.at
        elif verdict.type in ENDS or (verdict.type == "EpochCompleted" and data["attempt"] != attempt):
            return lost, at - fault.at
        elif verdict.type == "EpochCompleted" and at > fault.until + IN_FLIGHT_SECONDS:
            return None, at - fault.at  # The attempt got over it: a child that was frozen for a moment.
    return lost, None


def _summary(kind: str, values: list[float | None]) -> Recovery:
    known = sorted(value for value in values if value is not None)
    overlapped = len(values) - len(known)
    if not known:
        return Recovery(kind, len(values), 0.0, 0.0, overlapped)
    return Recovery(kind, len(values), median(known), known[-1], overlapped)
