"""L: the log itself. Nothing acknowledged is lost, nothing refused by the API is in it, order and keys hold."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator

from checker.fold import REQUESTS, SYSTEM, SYSTEM_TYPES, Fold, Verdict, murmur2_partition
from checker.history import Call, History, LogRecord
from checker.violation import Violation


def check(history: History, fold: Fold) -> Iterator[Violation]:
    """All of L."""
    yield from _both_reads_agree(history)
    yield from _offsets_rise(history)
    yield from _acknowledged_requests_are_there(history, fold)
    yield from _refused_requests_are_not(history, fold)
    yield from _echoes_are_equal(fold)
    yield from _one_key_one_job(history, fold)
    yield from _keys_and_partitions(history, fold)
    yield from _attempts_are_written_in_order(history, fold)
    yield from _undecodable_are_parked(history, fold)


def _digest(record: LogRecord) -> str:
    return hashlib.sha256(repr((record.key, record.value)).encode()).hexdigest()


def _both_reads_agree(history: History) -> Iterator[Violation]:
    first = {(r.partition, r.offset): _digest(r) for r in history.log}
    again = {(r.partition, r.offset): _digest(r) for r in history.log_again}
    for position in sorted(first.keys() | again.keys()):
        if first.get(position) != again.get(position):
            yield Violation("L1", f"two reads of {position} differ, or only one has it")


def _offsets_rise(history: History) -> Iterator[Violation]:
    last: dict[int, int] = {}
    for record in history.log:
        if record.offset <= last.get(record.partition, -1):
            yield Violation("L1", f"offset {record.offset} of partition {record.partition} does not rise")
        last[record.partition] = record.offset


def _acknowledged_requests_are_there(history: History, fold: Fold) -> Iterator[Violation]:
    """An answer of success is about a record that took effect, but for a stop of what was stopping already."""
    stops: dict[tuple[str, str], list[int]] = defaultdict(list)
    for verdict in fold.verdicts:
        if verdict.version is not None and verdict.type == "JobStopRequested":
            stops[verdict.workspace, verdict.subject].append(verdict.version)
    for call in history.calls:
        if call.outcome != "ok" or not call.event_id:
            continue
        found = fold.requests.get((call.workspace, call.event_id))
        if found is not None and (found.effective or call.answer.get("verdict") == "pending"):
            continue
        stopping = call.operation == "JobStopRequested" and any(
            version <= call.answer.get("version", 0) for version in stops[call.workspace, call.answer.get("job_id", "")]
        )
        if found is None and not stopping:
            yield Violation("L2", f"{call.operation} {call.event_id} was answered {call.status} and is not in the log")
        elif found is not None and not stopping:
            said = f"{call.operation} {call.event_id} was answered {call.status} and the log refused it"
            yield Violation("L2", f"{said}: {found.refusal}")


def _refused_requests_are_not(history: History, fold: Fold) -> Iterator[Violation]:
    """Nobody is told of a failure for good while what he asked for takes effect.

    One sending of a request may fail where another sending of the same one had an outcome that nobody knows. But once its
    record lay in the log, a later sending is told what came of it.
    """
    called: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.event_id:
            called[call.workspace, call.event_id].append(call)
    for request, verdict in fold.requests.items():
        if request[0] == SYSTEM:
            continue  # What administrators did, by other ways than the calls that were noted.
        calls = called.get(request, [])
        if not calls and history.calls:
            yield Violation("L3", f"{verdict.type} {request[1]} is in the log and nobody asked for it")
        if not verdict.effective:
            continue
        refused = [call for call in calls if call.outcome == "fail"]
        if refused and len(refused) == len(calls):
            said = f"the client was told that it failed: {refused[0].status} {refused[0].code}"
            yield Violation("L3", f"{verdict.type} {request[1]} took effect though {said}")
            continue
        for call in refused:
            if 400 <= call.status < 500 and call.began * 1000 > verdict.record.timestamp:
                late = f"{call.began - verdict.record.timestamp / 1000:.3f} s after its record was in the log"
                yield Violation(
                    "L3", f"{verdict.type} {request[1]} took effect, and asked again {late} it was {call.code}"
                )


def _echoes_are_equal(fold: Fold) -> Iterator[Violation]:
    bodies: dict[tuple[str, str], bytes | None] = {}
    for verdict in fold.verdicts:
        if verdict.document is None or verdict.refusal in ("misrouted", "unknown_type"):
            continue
        key = (verdict.workspace, verdict.document["id"])
        if (
            bodies.setdefault(key, verdict.record.value) != verdict.record.value
            and verdict.type not in REQUESTS | SYSTEM_TYPES
        ):
            yield Violation("L4", f"{verdict.type} {key[1]} stands in the log twice with different bytes")


def _one_key_one_job(history: History, fold: Fold) -> Iterator[Violation]:
    jobs: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for call in history.calls:
        if call.key and call.outcome == "ok" and "job_id" in call.answer:
            jobs[call.workspace, call.actor, call.operation, call.key].add(call.answer["job_id"])
    for (_, _, operation, key), found in jobs.items():
        if len(found) > 1:
            yield Violation("L5", f"{operation} under key {key} was answered with {len(found)} different jobs")


def _keys_and_partitions(history: History, fold: Fold) -> Iterator[Violation]:
    partitions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for verdict in fold.verdicts:
        if not verdict.effective or verdict.workspace == SYSTEM:
            continue
        partitions[verdict.workspace, verdict.subject].add(verdict.record.partition)
        if murmur2_partition(verdict.record.key or b"", history.partitions) != verdict.record.partition:
            yield Violation(
                "L6", f"{verdict.type} of {verdict.subject} is effective in a partition that is not its key's"
            )
    for (_, subject), found in partitions.items():
        if len(found) > 1:
            yield Violation("L6", f"the records of {subject} lie in partitions {sorted(found)}")


def _attempts_are_written_in_order(history: History, fold: Fold) -> Iterator[Violation]:
    """First copies of the epochs that one attempt's worker wrote rise by one: it writes one record at a time."""
    last: dict[tuple[str, int, str], int] = {}
    seen: set[str] = set(history.strays)
    for verdict in fold.verdicts:
        if verdict.refusal in ("misrouted", "unknown_type"):
            continue
        if verdict.type != "EpochCompleted" or verdict.document is None or verdict.document["id"] in seen:
            continue
        seen.add(verdict.document["id"])
        data = verdict.document["data"]
        writer = (verdict.subject, data["attempt"], data["worker"])
        if writer in last and data["epoch"] != last[writer] + 1:
            yield Violation(
                "L6", f"attempt {data['attempt']} of {verdict.subject} wrote epoch {data['epoch']} after {last[writer]}"
            )
        last[writer] = data["epoch"]


def _undecodable_are_parked(history: History, fold: Fold) -> Iterator[Violation]:
    if "deadletter" not in history.rows:
        return
    parked: dict[tuple[int, int], int] = defaultdict(int)
    for row in history.rows["deadletter"]:
        parked[row["partition"], row["offset"]] += 1
    undecodable = {_position(v) for v in fold.verdicts if v.refusal == "undecodable"}
    for position in sorted(undecodable - parked.keys()):
        yield Violation("L7", f"the undecodable record at {position} is not among the dead letters")
    for position in sorted(parked.keys() - undecodable):
        yield Violation("L7", f"the record at {position} is among the dead letters and could be decoded")


def _position(verdict: Verdict) -> tuple[int, int]:
    return verdict.record.partition, verdict.record.offset
