"""Gathers what a run left behind, once everything has come to rest, with means that share nothing with the platform's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapters.kafka import topic_name
from checker.history import Artifact, History
from schemas.topics import DEADLETTER, EVENTS, FACTS, JOBS
from storm.clients import Notes
from storm.faults import Storm
from storm.followers import Followers
from storm.strays import read_log, read_topic
from storm.world import World

_TABLES = {
    "jobs": "SELECT workspace, job_id, status, priority, requested_version, version, state FROM read.jobs",
    "epochs": "SELECT workspace, job_id, attempt, epoch, version, metrics FROM read.epochs",
    "checkpoints": "SELECT * FROM read.checkpoints",
    "datasets": "SELECT workspace, dataset_id, name, number, version, state FROM read.datasets",
    "models": "SELECT workspace, name, number, version, job_id FROM read.models",
    "journal": 'SELECT partition, "offset", at, key, value, version, refusal, hash FROM log.journal',
    "cursors": "SELECT partition, next_offset FROM log.cursors",
    "requests": 'SELECT workspace, id, partition, "offset", version, refusal FROM log.requests',
    "workspaces": "SELECT workspace, partition, version FROM log.workspaces",
}
_STATE = ("attempt", "worker", "epoch", "losses", "previous")


async def history(world: World, storm: Storm, notes: Notes, followers: Followers, *, quiesced: bool) -> History:
    """The whole run."""
    kafka = world.kafka
    log = await read_log(kafka)
    # Another fetch size, so that the second read does not come in the same pieces.
    again = await read_topic(kafka, topic_name(kafka, EVENTS), EVENTS.partitions, max_partition_fetch_bytes=32 * 1024)
    dead = await read_topic(kafka, topic_name(kafka, DEADLETTER), DEADLETTER.partitions)
    rows = await _rows(world)
    rows["deadletter"] = [
        {"partition": int(headers["partition"]), "offset": int(headers["offset"])}
        for headers in (dict(record.headers) for record in dead)
    ]
    ends = dict.fromkeys(range(EVENTS.partitions), 0)
    for record in log:
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    secrets = json.loads((world.servers.root / "secrets.json").read_text())
    return History(
        log=log,
        log_again=again,
        calls=notes.calls,
        rows=rows,
        reads=notes.reads,
        frames=[frame for follower in followers.all for frame in follower.frames],
        artifacts=await asyncio.to_thread(lambda: list(_artifacts(world.seen(world.services.objects)))),
        faults=storm.journal,
        ends=ends,
        canaries=[*notes.canaries, *(text.encode() for name, text in secrets.items() if name != "cluster_id")],
        texts=await asyncio.to_thread(_texts, world, notes),
        strays=storm.strays.ids,
        facts=await read_topic(kafka, topic_name(kafka, FACTS), FACTS.partitions),
        table=await read_topic(kafka, topic_name(kafka, JOBS), JOBS.partitions),
        partitions=EVENTS.partitions,
        quiesced=quiesced,
    )


async def _rows(world: World) -> dict[str, list[dict[str, Any]]]:
    connection = await world.connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = {name: [dict(row) for row in await connection.fetch(query)] for name, query in _TABLES.items()}
    finally:
        await connection.close()
    for row in found["jobs"]:
        state = json.loads(row.pop("state"))
        row |= {name: state.get(name) for name in _STATE}
        row["checkpoints"] = [saved["checkpoint"] for saved in state["checkpoints"]]
        row["model"] = state.get("model")
        if (state["status"], state["priority"], state["version"]) != (row["status"], row["priority"], row["version"]):
            row["status"] = f"{row['status']}, and {state['status']} in its state"
    for row in found["epochs"]:
        row["metrics"] = json.loads(row["metrics"])
    for row in found["datasets"]:
        row["sha256"] = json.loads(row.pop("state"))["sha256"]
    return found


def _artifacts(folder: Path) -> Iterable[Artifact]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield Artifact(str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).hexdigest())


def _texts(world: World, notes: Notes) -> dict[str, bytes]:
    """Every log file, what Kafka has on its disk, and the bodies of all errors."""
    places = [*world.folder.glob("*.log"), *world.servers.logs.glob("*"), *world.services.logs.glob("*")]
    for index in range(world.brokers):
        places += (world.seen(world.servers.broker(index)) / "data").rglob("*.log")
    texts = {str(file): file.read_bytes() for file in places if file.is_file()}
    return {**texts, "bodies of errors": b"\n".join(notes.bodies)}
