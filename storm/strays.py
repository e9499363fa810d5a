"""Records that land in the log though nobody wants them: copies, latecomers, and such as nobody can read."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from adapters.kafka import client_options, topic_name
from adapters.settings import KafkaSettings
from checker.documents import read
from checker.fold import murmur2_partition
from checker.history import LogRecord
from schemas.topics import EVENTS


class Strays:
    """Reads what is in the log so far and appends to it, as a faulty network or a faulty program would."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._topic = topic_name(settings, EVENTS)
        self.ids: set[str] = set()
        """Ids of the records that only the storm wrote."""

    async def repeat(self, rng: random.Random) -> int:
        """Append old records once more, byte by byte; how many."""
        log = await read_log(self._settings)
        chosen = rng.sample(log, min(len(log), rng.randint(1, 20)))
        return await self._append([(r.partition, r.key, r.value) for r in chosen])

    async def late(self, rng: random.Random) -> int:
        """Append what attempts that are over might still have said: an epoch, a checkpoint, an end."""
        lines: list[tuple[int, bytes | None, bytes | None]] = []
        log = await read_log(self._settings)
        last: dict[tuple[str, int], tuple[LogRecord, dict[str, Any]]] = {}
        newest: dict[str, int] = {}
        for record in log:
            document = _document(record) or {}
            kind, subject = document.get("type"), document.get("subject", "")
            if kind == "ravand.EpochCompleted" and document["id"] not in self.ids:
                last[subject, document["data"]["attempt"]] = record, document
            elif kind == "ravand.AttemptStarted":
                newest[subject] = max(document["data"]["attempt"], newest.get(subject, 0))
            elif kind == "ravand.ModelRegistered":
                newest[subject] = 2**31  # Over: whatever its attempts say now comes too late.
        old = [entry for (job, attempt), entry in last.items() if attempt < newest.get(job, 0)]
        for record, document in rng.sample(old, min(len(old), rng.randint(1, 5))):
            data = document["data"]
            held = {"attempt": data["attempt"], "worker": data["worker"]}
            kind, made = rng.choice(
                (
                    ("EpochCompleted", {**held, "epoch": data["epoch"] + 1, "metrics": {"loss": 0.0}}),
                    ("CheckpointSaved", {**held, "epoch": data["epoch"], "step": 0, "uri": "x/y", "sha256": "00"}),
                    ("JobFailed", {**held, "code": "exception"}),
                    ("AttemptLost", {**held, "reason": "killed"}),
                    (
                        "ModelRegistered",
                        {**held, "last_epoch": data["epoch"], "model": "late", "files": [], "metrics": {}},
                    ),
                )
            )
            id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            self.ids.add(id)
            written = {**document, "id": id, "type": f"ravand.{kind}", "data": made}
            written["dataschema"] = f"urn:ravand:schemas:{kind}:1"
            lines.append((record.partition, record.key, json.dumps(written).encode()))
        return await self._append(lines)

    async def poison(self, rng: random.Random) -> int:
        """Append a few of each kind of unusable record, beside good ones."""
        log = await read_log(self._settings)
        known = [(r, d) for r in log if (d := _document(r)) and d.get("type") == "ravand.EpochCompleted"]
        if not known:
            return 0
        record, document = rng.choice(known)
        lines = [(record.partition, record.key, value) for value in _unusable(document)]
        elsewhere = (murmur2_partition(record.key or b"", EVENTS.partitions) + 1) % EVENTS.partitions
        lines.append((elsewhere, record.key, record.value))
        lines.append((record.partition, b"somebody else", record.value))
        rng.shuffle(lines)
        return await self._append(lines[: rng.randint(1, len(lines))])

    async def _append(self, lines: list[tuple[int, bytes | None, bytes | None]]) -> int:
        producer = AIOKafkaProducer(**client_options(self._settings), acks="all")
        try:
            await producer.start()
            for partition, key, value in lines:
                await producer.send_and_wait(self._topic, value, key=key, partition=partition)
        except KafkaError as error:
            raise OSError(str(error)) from error
        finally:
            await producer.stop()
        return len(lines)


def _document(record: LogRecord) -> dict[str, Any] | None:
    try:
        return read(record.value)
    except ValueError:
        return None


def _unusable(good: dict[str, Any]) -> list[bytes | None]:
    def changed(**changes: Any) -> bytes:
        return json.dumps({**good, "id": str(uuid.uuid4()), **changes}).encode()

    data = good["data"]
    deep = b"[" * 10_000 + b"]" * 10_000
    return [
        None,
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        changed(specversion="2.0"),
        changed(subject=""),
        changed(data={**data, "epoch": "three"}),
        changed(data={**data, "epoch": -1}),
        changed(data={**data, "attempt": 2**70}),
        changed(data={**data, "metrics": {"loss": "NaN"}}),
        changed(data={**data, "metrics": {"loss": float("nan")}}),
        changed(data={key: value for key, value in data.items() if key != "worker"}),
        changed(extra="a\0b"),
        changed(version=7),
        json.dumps({**good, "extra": 0}).encode().replace(b'"extra": 0', b'"extra": ' + deep),
        changed(extra="x" * 300_000),
        changed(type="ravand.FromTheFuture", dataschema="urn:ravand:schemas:FromTheFuture:1"),
        changed(dataschema="urn:ravand:schemas:EpochCompleted:9"),
        changed(dataschema="urn:somebody:else"),
    ]


async def read_log(settings: KafkaSettings) -> list[LogRecord]:
    """All of `ravand.events` up to its present end, read plainly. Raises `OSError` when Kafka does not answer."""
    topic = topic_name(settings, EVENTS)
    return await read_topic(settings, topic, EVENTS.partitions)


async def read_topic(settings: KafkaSettings, topic: str, partitions: int, **options: Any) -> list[LogRecord]:
    """All of a topic up to its present end."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **options
    )
    records: list[LogRecord] = []
    try:
        await consumer.start()
        all_of_them = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(all_of_them)
        ends = await consumer.end_offsets(all_of_them)
        await consumer.seek_to_beginning(*all_of_them)
        waiting = {tp for tp in all_of_them if ends[tp] > 0}
        while waiting:
            for tp, found in (await consumer.getmany(timeout_ms=200)).items():
                for r in found:
                    if r.offset < ends[tp]:
                        records.append(LogRecord(tp.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)))
            waiting = {tp for tp in waiting if await consumer.position(tp) < ends[tp]}
    except KafkaError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        await consumer.stop()
    return records
