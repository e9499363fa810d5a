"""J: what happened to each job is a word of the automaton, each run between retries has one end, checkpoints hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from checker.fold import HELD, OVER, Fold, FoldedJob, Verdict
from checker.history import History
from checker.violation import Violation

ENDS = {"ModelRegistered", "JobCompleted", "JobFailed"}
ATTEMPT_ENDS = ENDS | {"JobStopped", "JobPaused", "AttemptLost"}


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """All of J. J7 and J9 need the run's own knowledge (stop latency, an unbroken twin) and are asserted by the storm."""
    by_job: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in fold.verdicts:
        if verdict.effective and (verdict.workspace, verdict.subject) in fold.jobs:
            by_job[verdict.workspace, verdict.subject].append(verdict)
    for key, records in by_job.items():
        job = fold.jobs[key]
        if history.quiesced:
            yield from _it_ended(job)
        yield from _word(job, records)
        yield from _attempts(job, records)
        yield from _epochs(job, records)
    yield from _models(history, fold)
    yield from _checkpoints_exist(history, fold)


def _it_ended(job: FoldedJob) -> Iterator[Violation]:
    if job.status not in OVER | {"paused"}:
        yield Violation("J1", f"job {job.id} is {job.status} after everything came to rest")


def _word(job: FoldedJob, records: list[Verdict]) -> Iterator[Violation]:
    """Between a request or retry and the next there is at most one end, and after it only a retry."""
    over, running = False, False
    for index, verdict in enumerate(records):
        kind = verdict.type
        if (kind == "JobRequested") != (index == 0):
            yield Violation("J2", f"job {job.id}: {kind} as effective record {index + 1}")
        if over and kind != "JobRetried":
            yield Violation("J2", f"job {job.id}: {kind} took effect at version {verdict.version} after the end")
        if kind == "JobRetried":
            over = False
        elif kind == "AttemptStarted":
            if running:
                yield Violation(
                    "J6", f"job {job.id}: a second attempt began at version {verdict.version} while one ran"
                )
            running = True
        elif kind in ATTEMPT_ENDS:
            if not running:
                yield Violation(
                    "J2", f"job {job.id}: {kind} took effect at version {verdict.version} without an attempt"
                )
            running = False
        over = over or kind in ENDS


def _attempts(job: FoldedJob, records: list[Verdict]) -> Iterator[Violation]:
    started = [_data(v)["attempt"] for v in records if v.type == "AttemptStarted"]
    if started != list(range(1, len(started) + 1)):
        yield Violation("J3", f"job {job.id}: attempts {started} are not numbered 1, 2, 3, …")
    if job.attempt != len(started):
        yield Violation("J3", f"job {job.id}: {len(started)} attempts began and the last one is number {job.attempt}")
    if job.status in HELD and job.worker is None:
        yield Violation("J3", f"job {job.id} is {job.status} and nobody holds it")


def _epochs(job: FoldedJob, records: list[Verdict]) -> Iterator[Violation]:
    """Each attempt's effective epochs go on from its checkpoint, which an earlier record saved."""
    saved: set[tuple[int, int, int, str]] = set()
    reached, attempt = 0, 0
    for verdict in records:
        data = _data(verdict)
        match verdict.type:
            case "CheckpointSaved":
                saved.add((data["attempt"], data["epoch"], data["step"], data["sha256"]))
            case "AttemptStarted":
                named = data.get("checkpoint")
                attempt, reached = data["attempt"], named["epoch"] if named else 0
                if named and (named["attempt"], named["epoch"], named["step"], named["sha256"]) not in saved:
                    yield Violation("J4", f"job {job.id}: attempt {attempt} starts from a checkpoint that nobody saved")
            case "EpochCompleted":
                if data["attempt"] != attempt or data["epoch"] != reached + 1:
                    yield Violation(
                        "J4",
                        f"job {job.id}: epoch {data['epoch']} of attempt {data['attempt']} took effect after {reached}",
                    )
                reached = data["epoch"]
            case "ModelRegistered" | "JobCompleted" if data["last_epoch"] != reached:
                yield Violation("J8", f"job {job.id} ended at epoch {data['last_epoch']} and had reached {reached}")


def _models(history: History, fold: Fold) -> Iterator[Violation]:
    found = {artifact.uri: artifact.sha256 for artifact in history.artifacts}
    by_job: dict[tuple[str, str], int] = defaultdict(int)
    for (workspace, name), versions in fold.models.items():
        if [version["number"] for version in versions] != list(range(1, len(versions) + 1)):
            yield Violation("J8", f"the versions of model {name} have holes")
        for version in versions:
            by_job[workspace, version["job_id"]] += 1
            for file in version["files"]:
                if history.artifacts and found.get(file["uri"]) != file["sha256"]:
                    yield Violation("J8", f"{file['uri']} of model {name} is missing or has other bytes")
    for (_, job_id), count in by_job.items():
        if count > 1:
            yield Violation("J8", f"job {job_id} registered {count} models")


def _checkpoints_exist(history: History, fold: Fold) -> Iterator[Violation]:
    if not history.artifacts:
        return
    found = {artifact.uri: artifact.sha256 for artifact in history.artifacts}
    for job in fold.jobs.values():
        if job.status in OVER or not job.checkpoints:
            continue
        newest = job.checkpoints[-1]
        if found.get(newest["uri"]) != newest["sha256"]:
            yield Violation("J4", f"the newest checkpoint of open job {job.id} is missing or has other bytes")


def _data(verdict: Verdict) -> dict[str, Any]:
    assert verdict.document is not None
    data: dict[str, Any] = verdict.document["data"]
    return data
