"""One story in which every event type takes effect with all its fields: the records whose bytes are kept for ever."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    DatasetRef,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobRetried,
    JobStopped,
    JobStopRequested,
    ModelRegistered,
    ObjectRef,
    PriorityChanged,
    ProjectionsRebuildCancelled,
    ProjectionsRebuildStarted,
    ProjectionsRebuilt,
    ProjectionsRolledBack,
    ProjectionsSwapped,
    RulesActivated,
    StoredFile,
    SystemEvent,
)
from schemas.envelope import Envelope, record

WORKSPACE = "0198c0de-0000-7000-8000-000000000001"
DATASET = "0198c0de-0000-7000-8000-000000000002"
JOB = "0198c0de-0000-7000-8000-000000000003"
SECOND_JOB = "0198c0de-0000-7000-8000-000000000004"
WORKER = "0198c0de-0000-7000-8000-000000000005"
REBUILD = "0198c0de-0000-7000-8000-000000000007"
USER = "0198c0de-0000-7000-8000-000000000006"

LOG = ObjectRef(uri=f"jobs/{JOB}/1/last-lines.txt", sha256="1" * 64)
CHECKPOINT = Checkpoint(attempt=1, epoch=1, step=120, uri=f"jobs/{JOB}/1/1-120.ckpt", sha256="2" * 64)
REQUESTED = JobRequested(
    name="اولین آموزش",
    recipe="tabular",
    recipe_version=1,
    parameters={
        "target": "species",
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.001,
        "seed": 7,
        "hidden": [64, 32],
        "patience": None,
        "class_weights": True,
        "options": {"dropout": 0.1},
    },
    epochs=3,
    dataset=DatasetRef(id=DATASET, uri="datasets/iris.csv", sha256="3" * 64, format="csv"),
    model="iris",
    max_losses=3,
    priority=5,
)


def a(number: int) -> dict[str, Any]:
    """The fields that every report of that attempt has."""
    return {"attempt": number, "worker": WORKER}


def _story() -> dict[str, tuple[Event, str]]:
    saved = CheckpointSaved(
        **a(1),
        epoch=1,
        step=120,
        uri=CHECKPOINT.uri,
        sha256=CHECKPOINT.sha256,
        best=True,
    )
    registered = DatasetRegistered(
        name="iris",
        uri="datasets/iris.csv",
        sha256="3" * 64,
        format="csv",
        bytes=4551,
        rows=150,
        profile=ObjectRef(uri="profiles/iris.json", sha256="4" * 64),
    )
    model = ModelRegistered(
        **a(5),
        last_epoch=0,
        model="iris",
        files=(StoredFile(name="model.safetensors", uri="models/iris/1", sha256="5" * 64, bytes=9001),),
        metrics={"loss": 0.25, "accuracy": 0.96875},
    )
    metrics = {"loss": 0.6931471805599453, "val_loss": 0.7, "accuracy": 0.5, "val_accuracy": 1e-7}
    return {
        "DatasetRegistered-1": (registered, DATASET),
        "JobRequested-1": (REQUESTED, JOB),
        "PriorityChanged-1": (PriorityChanged(priority=-7), JOB),
        "JobPauseRequested-1": (JobPauseRequested(), JOB),
        "JobResumed-1": (JobResumed(), JOB),
        "AttemptStarted-1": (AttemptStarted(**a(1)), JOB),
        "EpochCompleted-1": (EpochCompleted(**a(1), epoch=1, metrics=metrics, seconds=1.25), JOB),
        "CheckpointSaved-1": (saved, JOB),
        "JobPaused-1": (JobPaused(**a(1)), JOB),
        "AttemptStarted-1-from-checkpoint": (AttemptStarted(**a(2), checkpoint=CHECKPOINT), JOB),
        "AttemptLost-1": (
            AttemptLost(**a(2), reason="checkpoint_unreadable", checkpoint=CHECKPOINT, log=LOG),
            JOB,
        ),
        "AttemptStarted-1-third": (AttemptStarted(**a(3)), JOB),
        "JobFailed-1": (JobFailed(**a(3), code="exception", exception="ValueError", log=LOG), JOB),
        "JobRetried-1": (JobRetried(fresh=True), JOB),
        "AttemptStarted-1-fourth": (AttemptStarted(**a(4)), JOB),
        "JobStopRequested-1": (JobStopRequested(), JOB),
        "JobStopped-1": (JobStopped(**a(4)), JOB),
        "JobRetried-1-again": (JobRetried(), JOB),
        "AttemptStarted-1-fifth": (AttemptStarted(**a(5)), JOB),
        "ModelRegistered-1": (model, JOB),
        "JobRequested-1-second": (replace(REQUESTED, name="no model", parameters={}), SECOND_JOB),
        "AttemptStarted-1-second": (AttemptStarted(**a(1)), SECOND_JOB),
        "JobCompleted-1": (JobCompleted(**a(1), last_epoch=0), SECOND_JOB),
        "RulesActivated-1": (RulesActivated(rules=2), "0"),
        "ProjectionsRebuildStarted-1": (ProjectionsRebuildStarted(projections=("jobs", "epochs")), REBUILD),
        "ProjectionsRebuilt-1": (
            ProjectionsRebuilt(
                projections=("jobs", "epochs"),
                records=1_000_000,
                rows=2_000_000,
                differing_rows=1,
                differing_verdicts=0,
            ),
            REBUILD,
        ),
        "ProjectionsSwapped-1": (ProjectionsSwapped(projections=("jobs", "epochs")), REBUILD),
        "ProjectionsRolledBack-1": (ProjectionsRolledBack(projections=("jobs", "epochs")), REBUILD),
        "ProjectionsRebuildCancelled-1": (ProjectionsRebuildCancelled(projections=("jobs",)), REBUILD),
    }


STORY = _story()
"""Name of the golden file → (event, subject), in the order in which they take effect."""


def example(name: str) -> Envelope:
    """The record of that name, with every attribute that an envelope may have."""
    event, subject = STORY[name]
    number = list(STORY).index(name)
    creates = isinstance(event, (DatasetRegistered, JobRequested))
    asked = event.is_request
    return record(
        event,
        id=subject if creates else f"0198c0de-0000-7000-8000-{100 + number:012d}",
        source="ravand/api" if asked else "ravand/worker",
        subject=subject,
        time=f"2026-11-23T12:00:{number:02d}.000Z",
        workspace="system" if isinstance(event, RulesActivated | SystemEvent) else WORKSPACE,
        actor=USER if asked else WORKER,
        correlationid=JOB,
        causationid=DATASET,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        requesthash="6" * 64 if asked else None,
    )
