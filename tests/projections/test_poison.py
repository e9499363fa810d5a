"""Records that nobody should have written: each gets its verdict, the bytes are kept, and the partition goes on."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from adapters.kafka import partition_of, producer, topic_name
from projections.publishing import MAX_DEAD_BYTES
from schemas.topics import DEADLETTER, EVENTS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, project
from tests.projections.records import Written, one_job

TEAM = b"team"
HOME = partition_of(TEAM, EVENTS.partitions)


def _sound(**changes: Any) -> bytes:
    data = {"attempt": 1, "worker": "w", "epoch": 1, "metrics": {"loss": 0.5}}
    document = {
        "specversion": "1.0",
        "type": "ravand.EpochCompleted",
        "id": str(uuid.uuid4()),
        "source": "ravand://test",
        "subject": "no-such-job",
        "time": "2026-01-01T00:00:00Z",
        "dataschema": "urn:ravand:schemas:EpochCompleted:1",
        "workspace": "team",
        "actor": "w",
        "data": data,
        **changes,
    }
    return json.dumps(document).encode()


def _with_data(text: str) -> bytes:
    return _sound(data="DATA").replace(b'"DATA"', text.encode())


def _epoch(metrics: str) -> bytes:
    return _with_data('{"attempt":1,"worker":"w","epoch":1,"metrics":' + metrics + "}")


POISON: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "sound, of an unknown job": (TEAM, _sound(), "unknown_job"),
    "bad JSON": (TEAM, b'{"type":', "undecodable"),
    "bad UTF-8": (TEAM, _sound(actor="ACTOR").replace(b"ACTOR", b"\xff\xfe"), "undecodable"),
    "no value": (TEAM, None, "undecodable"),
    "an empty value": (TEAM, b"", "undecodable"),
    "no key": (None, _sound(), "misrouted"),
    "neither": (None, None, "undecodable"),
    "a key that is not UTF-8": (b"\xff", _sound(), "misrouted"),
    "another workspace's key": (b"others", _sound(), "misrouted"),
    "too long": (TEAM, _sound(actor="x" * 300_000), "undecodable"),
    "as long as the topic takes": (TEAM, b"x" * (1024 * 1024 - 200), "undecodable"),
    "a name too long": (TEAM, _sound(actor="x" * 300), "undecodable"),
    "nested deeply": (TEAM, _with_data("[" * 50_000 + "]" * 50_000), "undecodable"),
    "nested deeply where anything goes": (
        TEAM,
        _sound(extra="X").replace(b'"X"', b"[" * 900 + b"]" * 900),
        "undecodable",
    ),
    "not a number": (TEAM, _epoch('{"loss":NaN}'), "undecodable"),
    "infinity": (TEAM, _epoch('{"loss":1e999}'), "undecodable"),
    "a huge integer": (
        TEAM,
        _with_data('{"attempt":1,"worker":"w","epoch":' + "9" * 400 + ',"metrics":{}}'),
        "undecodable",
    ),
    "NUL": (TEAM, _sound(subject="a\0b"), "undecodable"),
    "a backslash and u0000": (TEAM, _sound(subject="a\\u0000b"), "unknown_job"),
    "half a surrogate pair": (TEAM, _sound(subject="X").replace(b'"X"', b'"\\ud800"'), "undecodable"),
    "an unknown type": (TEAM, _sound(type="ravand.SomethingNew"), "unknown_type"),
    "a newer schema": (TEAM, _sound(dataschema="urn:ravand:schemas:EpochCompleted:99"), "unknown_type"),
    "another type's schema": (TEAM, _sound(dataschema="urn:ravand:schemas:JobStopped:1"), "undecodable"),
    "a list": (TEAM, b"[1, 2]", "undecodable"),
    "a system record that is none": (b"system", _sound(workspace="system"), "misrouted"),
    "rules for a workspace": (
        TEAM,
        _sound(type="ravand.RulesActivated", dataschema="urn:ravand:schemas:RulesActivated:1", data={"rules": 2}),
        "misrouted",
    ),
}


async def test_each_gets_its_verdict_and_the_partition_goes_on(log: Log) -> None:
    before, after = one_job("team"), one_job("team")
    poison = [Written(key, value, (), HOME) for key, value, _ in POISON.values()]
    await log.write([*before, *poison, *after])
    await project(log)
    rows = await log.database.fetch(
        'SELECT refusal, key, value, id, type, subject FROM log.journal WHERE "offset" >= $1 ORDER BY "offset" LIMIT $2',
        len(before),
        len(poison),
    )
    for name, row in zip(POISON, rows, strict=True):
        key, value, refusal = POISON[name]
        assert (name, row["refusal"]) == (name, refusal)
        assert (row["key"], row["value"]) == (key, value), name
        if refusal == "undecodable":
            assert (row["id"], row["type"], row["subject"]) == ("", "", ""), name
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    jobs = await log.database.fetch("SELECT status FROM read.jobs")
    assert [row[0] for row in jobs] == ["completed", "completed"]


async def test_what_cannot_be_decoded_is_copied_to_the_dead_letters(log: Log) -> None:
    await log.write([Written(key, value, (), HOME) for key, value, _ in POISON.values()])
    await project(log)
    dead = await log.read(DEADLETTER)
    expected = [(key, value) for key, value, refusal in POISON.values() if refusal == "undecodable"]
    assert sorted(((r.key, r.value) for r in dead), key=str) == sorted(expected, key=str)
    values = [value for _, value, _ in POISON.values()]
    for record in dead:
        headers = dict(record.headers)
        assert headers["topic"] == f"{log.settings.kafka.prefix}events".encode()
        assert headers["partition"] == b"%d" % HOME
        assert values[int(headers["offset"])] == record.value
        assert headers["error"]


async def test_a_value_longer_than_any_batch_of_ours_stops_nothing(log: Log) -> None:
    """The broker's limit is on the compressed batch, so a few kilobytes can bring a value of any length."""
    settings = log.settings.kafka
    packed = producer(settings, compression_type="gzip", max_request_size=64 * 2**20, max_batch_size=64 * 2**20)
    await packed.start()
    try:
        await packed.send_and_wait(topic_name(settings, EVENTS), b"x" * 9 * 2**20, key=TEAM, partition=HOME)
    finally:
        await packed.stop()
    await log.write(one_job("team"))
    await project(log)
    [dead] = await log.read(DEADLETTER)
    assert dead.value == b"x" * MAX_DEAD_BYTES
    assert (
        await log.database.fetchval("SELECT length(value) FROM log.journal WHERE refusal = 'undecodable'") == 9 * 2**20
    )
    assert await log.database.fetchval("SELECT status FROM read.jobs") == "completed"


async def test_a_record_in_the_wrong_partition_is_refused(log: Log) -> None:
    await log.write([Written(TEAM, _sound(), (), (HOME + 1) % EVENTS.partitions)])
    await project(log)
    assert await log.database.fetchval("SELECT refusal FROM log.journal") == "misrouted"


@pytest.mark.parametrize("headers", [(), (("ce_type", b"ravand.JobStopped"), ("ce_id", b"x"))])
async def test_headers_are_kept_and_never_trusted(log: Log, headers: tuple[tuple[str, bytes], ...]) -> None:
    [dataset, *_] = one_job("team")
    await log.write([Written(dataset.key, dataset.value, headers)])
    await project(log)
    assert await log.database.fetchval("SELECT refusal IS NULL AND type = 'ravand.DatasetRegistered' FROM log.journal")
    [record] = await log.read(EVENTS)
    assert record.headers == headers
