"""A small whole run, made by hand: two jobs, a lost attempt, a zombie, a stop, two models, and everything around them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from checker.fold import OVER, fold, murmur2_partition
from checker.history import Artifact, Call, Frame, History, LogRecord, Read
from checker.row_invariants import chain

WS = "ws-1"
PARTITION = murmur2_partition(WS.encode(), 12)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checkpoint(job: str, attempt: int, epoch: int) -> dict[str, Any]:
    uri = f"jobs/{job}/{attempt}/checkpoint-{epoch}-0.safetensors"
    return {"attempt": attempt, "epoch": epoch, "step": 0, "uri": uri, "sha256": _hash(uri)}


def _file(job: str) -> dict[str, Any]:
    uri = f"jobs/{job}/model.safetensors"
    return {"name": "model.safetensors", "uri": uri, "sha256": _hash(uri), "bytes": 10}


def _dataset() -> dict[str, Any]:
    content = {"uri": "datasets/x", "sha256": _hash("x"), "format": "csv", "bytes": 10, "rows": 2}
    return {"name": "p.csv", **content, "profile": {"uri": "profiles/x", "sha256": _hash("p")}}


def _job_request(epochs: int = 3) -> dict[str, Any]:
    return {
        "name": "n",
        "recipe": "tabular",
        "recipe_version": 1,
        "parameters": {},
        "epochs": epochs,
        "dataset": {"id": "d1", "uri": "datasets/x", "sha256": _hash("x"), "format": "csv"},
        "model": "penguins",
        "max_losses": 3,
    }


def _epoch(attempt: int, worker: str, epoch: int) -> dict[str, Any]:
    return {"attempt": attempt, "worker": worker, "epoch": epoch, "metrics": {"loss": 1 / epoch}}


def script() -> list[tuple[str, str, str, str, dict[str, Any]]]:
    """(type, id, subject, actor, data) of every record, in order."""
    a1, a2 = {"attempt": 1, "worker": "w1"}, {"attempt": 2, "worker": "w2"}
    named = _checkpoint("j1", 1, 1)
    end = {"last_epoch": 3, "model": "penguins", "metrics": {"loss": 0.1}}
    return [
        ("DatasetRegistered", "d1", "d1", "u1", _dataset()),
        ("JobRequested", "j1", "j1", "u1", _job_request()),
        ("AttemptStarted", "e1", "j1", "w1", a1),
        ("EpochCompleted", "e2", "j1", "w1", _epoch(1, "w1", 1)),
        ("CheckpointSaved", "e3", "j1", "w1", {**a1, **named}),
        ("EpochCompleted", "e4", "j1", "w1", _epoch(1, "w1", 2)),
        ("AttemptLost", "e5", "j1", "s1", {**a1, "reason": "lease_expired"}),
        ("AttemptStarted", "e6", "j1", "w2", {**a2, "checkpoint": named}),
        ("EpochCompleted", "e7", "j1", "w1", _epoch(1, "w1", 3)),  # the zombie
        ("EpochCompleted", "e8", "j1", "w2", _epoch(2, "w2", 2)),
        ("JobRequested", "j2", "j2", "u1", _job_request()),
        ("EpochCompleted", "e9", "j1", "w2", _epoch(2, "w2", 3)),
        ("ModelRegistered", "e10", "j1", "w2", {**a2, **end, "files": [_file("j1")]}),
        ("AttemptStarted", "e11", "j2", "w1", a1),
        ("EpochCompleted", "e12", "j2", "w1", _epoch(1, "w1", 1)),
        ("JobStopRequested", "r1", "j2", "u1", {}),
        ("JobStopped", "e13", "j2", "w1", a1),
        ("JobRetried", "r2", "j2", "u1", {"fresh": True}),
        ("AttemptStarted", "e14", "j2", "w2", a2),
        ("EpochCompleted", "e15", "j2", "w2", _epoch(2, "w2", 1)),
        ("EpochCompleted", "e16", "j2", "w2", _epoch(2, "w2", 2)),
        ("EpochCompleted", "e17", "j2", "w2", _epoch(2, "w2", 3)),
        ("ModelRegistered", "e18", "j2", "w2", {**a2, **end, "files": [_file("j2")]}),
    ]


def record(offset: int, kind: str, id: str, subject: str, actor: str, data: dict[str, Any]) -> LogRecord:
    """One record as it would lie in the log."""
    document = {
        "type": f"ravand.{kind}",
        "specversion": "1.0",
        "id": id,
        "source": "test",
        "subject": subject,
        "time": "2026-01-01T00:00:00Z",
        "dataschema": f"urn:ravand:schemas:{kind}:1",
        "workspace": WS,
        "actor": actor,
        "data": data,
    }
    return LogRecord(PARTITION, offset, 1000 + offset, WS.encode(), json.dumps(document).encode())


def clean() -> History:
    """The run, with rows, frames, calls and artifacts that agree with it."""
    log = [record(offset, *line) for offset, line in enumerate(script())]
    log.append(LogRecord(PARTITION, len(log), 2000, WS.encode(), b"not json"))
    history = History(log=log, log_again=list(log))
    folded = fold(log)
    history.calls = [
        Call(v.type, "u1", WS, "ok", id, key=f"k-{id}", answer={"job_id": v.subject}, status=202)
        for (_, id), v in folded.requests.items()
    ]
    history.calls.append(Call("JobStopRequested", "u1", WS, "unknown", "r-lost"))
    history.rows = {
        "jobs": [
            {
                "workspace": WS,
                "job_id": j.id,
                "status": j.status,
                "attempt": j.attempt,
                "worker": j.worker,
                "epoch": j.epoch,
                "losses": j.losses,
                "priority": j.priority,
                "version": j.version,
                "requested_version": j.requested_version,
                "previous": j.previous,
                "checkpoints": j.listed,
                "model": {"name": j.model[0], "number": j.model[1]} if j.model else None,
            }
            for j in folded.jobs.values()
        ],
        "epochs": [
            {"workspace": ws, "job_id": job, "attempt": a, "epoch": e, **row}
            for (ws, job, a, e), row in folded.epochs.items()
        ],
        "datasets": [{"workspace": ws, "dataset_id": id, **d} for (ws, id), d in folded.datasets.items()],
        "models": [
            {"workspace": ws, "name": name, **version} for (ws, name), vs in folded.models.items() for version in vs
        ],
        "checkpoints": [
            {"workspace": ws, "job_id": job, **saved} for (ws, job, *_), saved in folded.checkpoints.items()
        ],
        "requests": [
            {
                "workspace": ws,
                "id": id,
                "partition": v.record.partition,
                "offset": v.record.offset,
                "version": v.version,
                "refusal": v.refusal,
            }
            for (ws, id), v in folded.requests.items()
        ],
        "workspaces": [
            {"workspace": ws, "partition": partition, "version": version}
            for (partition, ws), version in folded.versions.items()
        ],
        "journal": _journal(history),
        "cursors": [{"partition": PARTITION, "next_offset": len(log)}],
        "deadletter": [{"partition": PARTITION, "offset": len(log) - 1}],
    }
    history.ends = {PARTITION: len(log)}
    history.frames = _frames(history)
    history.reads = [Read("u1", WS, 0, 3, 200), Read("u1", WS, 3, None, 503), Read("u1", WS, 3, 9, 200)]
    history.facts, history.table = _facts(history), _table(history)
    saved = [_checkpoint("j1", 1, 1), _file("j1"), _file("j2")]
    history.artifacts = [Artifact(item["uri"], item["sha256"]) for item in saved]
    history.canaries = [b"s3cret-canary"]
    history.texts = {"api.log": b"nothing here"}
    return history


def _journal(history: History) -> list[dict[str, Any]]:
    rows, head = [], bytes(32)
    for verdict in fold(history.log).verdicts:
        r = verdict.record
        head = chain(head, r.timestamp, r.key, r.value)
        rows.append(
            {
                "partition": r.partition,
                "offset": r.offset,
                "at": r.timestamp,
                "key": r.key,
                "value": r.value,
                "version": verdict.version,
                "refusal": verdict.refusal,
                "hash": head,
            }
        )
    return rows


def _facts(history: History) -> list[LogRecord]:
    """Each once, and some twice, as after a hand-over."""
    facts = []
    for verdict in fold(history.log).verdicts:
        if verdict.version is not None and verdict.document is not None:
            value = json.dumps({**verdict.document, "version": verdict.version}).encode()
            facts.append(LogRecord(PARTITION, 0, 0, WS.encode(), value))
    facts[5:5] = facts[2:5]
    return [replace(fact, offset=offset) for offset, fact in enumerate(facts)]


def _table(history: History) -> list[LogRecord]:
    rows: list[LogRecord] = []
    for verdict in fold(history.log).verdicts:
        if verdict.version is not None and verdict.subject.startswith("j"):
            upto = fold([v for v in history.log if v.offset <= verdict.record.offset])
            job = upto.jobs[WS, verdict.subject]
            value = None if job.status in OVER else json.dumps({"job": {"status": job.status}}).encode()
            header = (("ravand_version", b"%d" % verdict.version),)
            rows.append(LogRecord(0, len(rows), 0, job.id.encode(), value, header))
    return rows


def _frames(history: History) -> list[Frame]:
    frames = []
    folded = fold(history.log)
    everything = [v for v in folded.verdicts if v.version is not None and v.subject in ("j1", "j2")]
    last: dict[str, int] = {}
    frames.append(Frame("s2", "", {"type": "asked", "since": 0}, WS))
    for v in everything:
        message = {"type": "job_update", "job_id": v.subject, "version": v.version, "event": v.type}
        frames.append(Frame("s2", "", {**message, "previous": last.get(v.subject, 0)}, WS))
        last[v.subject] = v.version or 0
    frames.append(Frame("s2", "", {"type": "end"}, WS))
    watched = len(frames)
    for job in ("j1", "j2"):
        frames.append(Frame("s1", job, {"type": "subscribed", "job_id": job, "since": 0}))
        previous = 0
        for v in folded.verdicts:
            if v.version is not None and v.subject == job:
                message = {
                    "type": "job_update",
                    "job_id": job,
                    "version": v.version,
                    "previous": previous,
                    "event": v.type,
                }
                frames.append(Frame("s1", job, message))
                previous = v.version
    return frames[watched:] + frames[:watched]
