"""The rules of the protocol, once more, as plainly as they can be written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from checker.documents import PREFIX, Undecodable, UnknownType, read
from checker.history import LogRecord

SYSTEM = "system"
LISTED = 4
"""How many of its newest checkpoints a job's row lists."""
REQUESTS = {
    "DatasetRegistered",
    "JobRequested",
    "JobStopRequested",
    "JobPauseRequested",
    "JobResumed",
    "JobRetried",
    "PriorityChanged",
}
REPORTS = {
    "AttemptStarted",
    "EpochCompleted",
    "CheckpointSaved",
    "JobStopped",
    "JobPaused",
    "AttemptLost",
    "ModelRegistered",
    "JobCompleted",
    "JobFailed",
}
SYSTEM_TYPES = {
    "ProjectionsRebuildStarted",
    "ProjectionsRebuilt",
    "ProjectionsSwapped",
    "ProjectionsRolledBack",
    "ProjectionsRebuildCancelled",
}
"""What is said of the platform itself, since rule set 2."""
HELD = {"running", "stopping", "pausing"}
OVER = {"completed", "failed", "stopped"}


@dataclass(slots=True)
class Verdict:
    """What became of one record."""

    record: LogRecord
    document: dict[str, Any] | None
    type: str
    workspace: str
    subject: str
    version: int | None = None
    """The workspace's version if the record took effect."""
    refusal: str | None = None

    @property
    def effective(self) -> bool:
        return self.version is not None


@dataclass(slots=True)
class FoldedJob:
    """A job as the plain fold has it."""

    id: str
    workspace: str
    epochs: int
    max_losses: int
    model_name: str
    dataset_id: str
    status: str = "queued"
    attempt: int = 0
    worker: str | None = None
    epoch: int = 0
    losses: int = 0
    priority: int = 0
    version: int = 0
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    """Those that the row shows: the newest, without what was struck since."""
    previous: int = 0
    struck: list[dict[str, Any]] = field(default_factory=list)
    model: tuple[str, int] | None = None
    requested_version: int = 0


@dataclass(slots=True)
class Fold:
    """Everything that the log says."""

    verdicts: list[Verdict] = field(default_factory=list)
    jobs: dict[tuple[str, str], FoldedJob] = field(default_factory=dict)
    datasets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    models: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    epochs: dict[tuple[str, str, int, int], dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[tuple[str, str, int, int, int], dict[str, Any]] = field(default_factory=dict)
    versions: dict[tuple[int, str], int] = field(default_factory=dict)
    requests: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    rules: dict[int, int] = field(default_factory=dict)


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner, written out (org.apache.kafka.common.utils.Utils.murmur2)."""
    mask, m, h = 0xFFFFFFFF, 0x5BD1E995, 0x9747B28C ^ len(key)
    for start in range(0, len(key) - len(key) % 4, 4):
        k = int.from_bytes(key[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = key[len(key) - len(key) % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


def fold(log: list[LogRecord], partitions: int = 12) -> Fold:
    """Fold the records of all partitions, each in the order of its offsets."""
    state = Fold()
    for record in sorted(log, key=lambda r: (r.partition, r.offset)):
        verdict = _read(record, partitions, state.rules.get(record.partition, 1))
        if verdict.refusal is None:
            _judge(state, verdict)
        state.verdicts.append(verdict)
    return state


def _read(record: LogRecord, partitions: int, rules: int) -> Verdict:
    refusal = None
    try:
        document = read(record.value, unknown=SYSTEM_TYPES if rules < 2 else set())
    except UnknownType as unknown:
        document, refusal = unknown.document, "unknown_type"
    except Undecodable:
        return Verdict(record, None, "", "", "", refusal="undecodable")
    kind = document["type"].removeprefix(PREFIX)
    verdict = Verdict(record, document, kind, document["workspace"], document["subject"], refusal=refusal)
    if refusal is None and not _is_routed(record, kind, document["workspace"], partitions):
        verdict.refusal = "misrouted"
    return verdict


def _is_routed(record: LogRecord, kind: str, workspace: str, partitions: int) -> bool:
    key = (record.key or b"").decode("utf-8", "replace")
    if kind == "RulesActivated":
        return key == SYSTEM == workspace
    if kind in SYSTEM_TYPES or key == SYSTEM:
        own = murmur2_partition(SYSTEM.encode(), partitions) == record.partition
        return kind in SYSTEM_TYPES and key == SYSTEM == workspace and own
    return key == workspace and murmur2_partition(record.key or b"", partitions) == record.partition


def _judge(state: Fold, verdict: Verdict) -> None:
    document = verdict.document
    assert document is not None
    if verdict.type == "RulesActivated":
        current = state.rules.get(verdict.record.partition, 1)
        if document["data"]["rules"] != current + 1:
            verdict.refusal = "rules_out_of_order"
            return
        state.rules[verdict.record.partition] = current + 1
        _take_effect(state, verdict)
        return
    if verdict.type in REQUESTS | SYSTEM_TYPES:
        request = (verdict.workspace, document["id"])
        if request in state.requests:
            verdict.refusal = "duplicate"
            return
        state.requests[request] = verdict
    if verdict.type in SYSTEM_TYPES:
        _take_effect(state, verdict)
        return
    verdict.refusal = _refusal(state, verdict, document["data"])
    if verdict.refusal is None:
        _apply(state, verdict, document["data"], _take_effect(state, verdict))


def _take_effect(state: Fold, verdict: Verdict) -> int:
    key = (verdict.record.partition, verdict.workspace)
    verdict.version = state.versions[key] = state.versions.get(key, 0) + 1
    return verdict.version


def _refusal(state: Fold, verdict: Verdict, data: dict[str, Any]) -> str | None:
    """Why the record does not take effect, by the table of the protocol; None if it does."""
    document = verdict.document or {}
    job = state.jobs.get((verdict.workspace, verdict.subject))
    kind = verdict.type
    if kind == "DatasetRegistered":
        return "misrouted" if document["id"] != verdict.subject else None
    if kind == "JobRequested":
        if document["id"] != verdict.subject:
            return "misrouted"
        if job is not None:
            return "duplicate"
        return None if (verdict.workspace, data["dataset"]["id"]) in state.datasets else "unknown_dataset"
    if job is None:
        return "unknown_job"
    if kind in REPORTS and kind != "AttemptStarted":
        current = job.status in HELD and data["attempt"] == job.attempt and data["worker"] == job.worker
        if not current:
            return "fenced"
    match kind:
        case "AttemptStarted":
            if job.status != "queued" or data["attempt"] != job.attempt + 1:
                return "claim_lost"
            named = data.get("checkpoint")
            return None if named is None or _plain(named) in job.checkpoints else "unknown_checkpoint"
        case "EpochCompleted":
            return None if data["epoch"] == job.epoch + 1 else "out_of_order"
        case "CheckpointSaved":
            if data["epoch"] != job.epoch:
                return "out_of_order"
            saved = [*job.checkpoints, *job.struck]
            name = (data["attempt"], data["epoch"], data["step"])
            return "already_saved" if any((c["attempt"], c["epoch"], c["step"]) == name for c in saved) else None
        case "ModelRegistered" | "JobCompleted":
            return None if data["last_epoch"] == job.epoch else "out_of_order"
        case "JobStopRequested":
            if job.status in OVER:
                return "already_over"
            return "already_stopping" if job.status == "stopping" else None
        case "JobPauseRequested":
            return None if job.status in ("queued", "running") else "not_pausable"
        case "JobResumed":
            return None if job.status in ("paused", "pausing") else "not_paused"
        case "JobRetried":
            return None if job.status in ("failed", "stopped") else "not_retriable"
        case "PriorityChanged":
            return "already_over" if job.status in OVER else None
    return None


def _plain(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: checkpoint[name] for name in ("attempt", "epoch", "step", "uri", "sha256")}


def _apply(state: Fold, verdict: Verdict, data: dict[str, Any], version: int) -> None:
    kind, workspace, subject = verdict.type, verdict.workspace, verdict.subject
    if kind == "DatasetRegistered":
        number = 1 + sum(1 for (ws, _), d in state.datasets.items() if ws == workspace and d["name"] == data["name"])
        state.datasets[workspace, subject] = {
            "id": subject,
            "name": data["name"],
            "number": number,
            "sha256": data["sha256"],
            "version": version,
        }
        return
    if kind == "JobRequested":
        state.jobs[workspace, subject] = FoldedJob(
            id=subject,
            workspace=workspace,
            epochs=data["epochs"],
            max_losses=data["max_losses"],
            model_name=data["model"],
            dataset_id=data["dataset"]["id"],
            priority=data.get("priority", 0),
            version=version,
            requested_version=version,
        )
        return
    job = state.jobs[workspace, subject]
    job.previous, job.version = job.version, version
    match kind:
        case "AttemptStarted":
            named = data.get("checkpoint")
            job.status, job.attempt, job.worker = "running", data["attempt"], data["worker"]
            job.epoch = named["epoch"] if named else 0
        case "EpochCompleted":
            job.epoch = data["epoch"]
            state.epochs[workspace, subject, data["attempt"], data["epoch"]] = {
                "metrics": data["metrics"],
                "version": version,
            }
        case "CheckpointSaved":
            saved = _plain(data)
            job.checkpoints.append(saved)
            job.listed = [*job.listed, saved][-LISTED:]
            job.losses = 0
            key = (workspace, subject, data["attempt"], data["epoch"], data["step"])
            state.checkpoints[key] = {**saved, "version": version, "struck": False}
        case "JobStopRequested":
            job.status = "stopping" if job.status in HELD else "stopped"
        case "JobPauseRequested":
            job.status = "pausing" if job.status in HELD else "paused"
        case "JobResumed":
            job.status = "running" if job.status in HELD else "queued"
        case "JobStopped" | "JobPaused":
            _end_attempt(job)
        case "AttemptLost":
            _lose_attempt(state, job, data)
        case "ModelRegistered":
            versions = state.models.setdefault((workspace, data["model"]), [])
            versions.append(
                {"number": len(versions) + 1, "job_id": subject, "files": data["files"], "version": version}
            )
            job.model = (data["model"], len(versions))
            job.status, job.worker = "completed", None
        case "JobCompleted":
            job.status, job.worker = "completed", None
        case "JobFailed":
            job.status, job.worker = "failed", None
        case "JobRetried":
            job.status, job.losses = "queued", 0
            if data.get("fresh"):
                job.struck += job.checkpoints
                job.checkpoints, job.listed, job.epoch = [], [], 0
        case "PriorityChanged":
            job.priority = data["priority"]


def _end_attempt(job: FoldedJob) -> None:
    job.status = {"stopping": "stopped", "pausing": "paused"}.get(job.status, "queued")
    job.worker = None


def _lose_attempt(state: Fold, job: FoldedJob, data: dict[str, Any]) -> None:
    if data["reason"] != "released":
        job.losses += 1
    named = data.get("checkpoint")
    if data["reason"] == "checkpoint_unreadable" and named:
        struck = _plain(named)
        job.listed = [one for one in job.listed if one != struck]
        row = state.checkpoints.get((job.workspace, job.id, named["attempt"], named["epoch"], named["step"]))
        if row and not row["struck"] and _plain(row) == struck:
            row["struck"] = True
        if struck in job.checkpoints:
            job.checkpoints.remove(struck)
            job.struck.append(struck)
    if job.status == "running" and data["reason"] != "released" and job.losses >= job.max_losses:
        job.status, job.worker = "failed", None
    else:
        _end_attempt(job)
