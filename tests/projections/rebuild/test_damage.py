"""A damaged read model: the report names each row, the rebuild mends it, and an audit finds nothing afterwards."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from adapters.kafka import producer, topic_name
from audit.verify import Wishes, verify
from projections.rebuild import replay
from projections.rebuild import run as rebuilding
from projections.rebuild.replay import NotRebuildable
from projections.rebuild.runs import Difference
from schemas.topics import EVENTS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, project
from tests.projections.rebuild.conftest import WORKSPACES, commanded, rebuilt, rolled_back
from tests.projections.records import stream
from tests.projections.test_faults import _delete, _rewrite

DAMAGE = {
    "jobs": {
        "altered": ("UPDATE read.jobs SET state = 'x', priority = 99 WHERE {}", "priority, state"),
        "missing": ("DELETE FROM read.jobs WHERE {}", ""),
        "extra": ("INSERT INTO read.jobs SELECT 'nobody', job_id, status, 0, 1, 1, state FROM read.jobs WHERE {}", ""),
    },
    "epochs": {
        "altered": ("UPDATE read.epochs SET metrics = '{{}}', at = 1 WHERE {}", "at, metrics"),
        "missing": ("DELETE FROM read.epochs WHERE {}", ""),
        "extra": (
            "INSERT INTO read.epochs SELECT workspace, job_id, 99, epoch, 1, 1, metrics FROM read.epochs WHERE {}",
            "",
        ),
    },
    "checkpoints": {
        "altered": ("UPDATE read.checkpoints SET struck = NOT struck WHERE {}", "struck"),
        "missing": ("DELETE FROM read.checkpoints WHERE {}", ""),
    },
    "datasets": {
        "altered": ("UPDATE read.datasets SET version = version + 1 WHERE {}", "version"),
        "missing": ("DELETE FROM read.datasets WHERE {}", ""),
    },
    "requests": {
        "altered": ("UPDATE log.requests SET refusal = 'fenced' WHERE {}", "refusal"),
        "missing": ("DELETE FROM log.requests WHERE {}", ""),
    },
    "workspaces": {
        "altered": ("UPDATE log.workspaces SET version = version + 1 WHERE {}", "version"),
        "extra": ("INSERT INTO log.workspaces SELECT 'nobody', partition, 1 FROM log.workspaces WHERE {}", ""),
    },
}
CASES = [(name, what) for name, kinds in DAMAGE.items() for what in kinds]


async def test_every_kind_of_damage_is_named_and_mended(log: Log) -> None:
    await log.write(stream(21, WORKSPACES, 2_000))
    await project(log)
    for number, (name, what) in enumerate(CASES):
        home = ("log." if name in ("requests", "workspaces") else "read.") + name
        statement, _ = DAMAGE[name][what]
        row = f"ctid IN (SELECT ctid FROM {home} ORDER BY ctid LIMIT 1 OFFSET {number % 3})"
        done = await log.database.execute(statement.format(row))
        assert done.endswith(" 1"), (name, what, done)
    assert not (await verify(log.settings, Wishes(processes=1))).ok
    done_now = await rebuilt(log)
    assert {(d.projection, d.what, d.columns) for d in done_now.differences} == {
        (name, what, DAMAGE[name][what][1]) for name, what in CASES
    }
    assert len(done_now.differences) == done_now.run.report.differing == len(CASES)
    await project(log)
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    found = await verify(log.settings, Wishes(processes=1))
    assert found.ok, found.breaks
    # And back: the damage is there again, as it was kept.
    await rolled_back(log)
    assert not (await verify(log.settings, Wishes(processes=1))).ok


async def test_a_verdict_that_the_log_does_not_come_to_is_an_alarm(log: Log) -> None:
    await log.write(stream(22, WORKSPACES, 500))
    await project(log)
    [row] = await log.database.fetch(
        "UPDATE log.journal SET version = NULL, refusal = 'fenced' WHERE ctid IN"
        ' (SELECT ctid FROM log.journal WHERE version IS NOT NULL ORDER BY partition, "offset" LIMIT 1)'
        ' RETURNING partition, "offset"'
    )
    with pytest.raises(rebuilding.Refused) as refused:
        await rebuilt(log)
    assert refused.value.run.report.verdicts == 1
    assert await log.database.fetchval("SELECT max(generation) FROM log.cursors") == 0
    status, _, said = await commanded(log)
    assert status == 1
    assert "1 verdicts of the journal" in said
    assert "Traceback" not in said
    done = await rebuilt(log, accept_differences=True)
    assert (done.run.state, done.run.report.verdicts, done.run.report.differing) == ("swapped", 1, 0)
    odd = next(d for d in done.differences if d.what == "verdict")
    assert odd == Difference(
        projection="journal",
        what="verdict",
        key=f"{row['partition']} {row['offset']}",
        columns="stored: fenced; the log comes to: version 1",
    )


async def test_a_log_that_is_shorter_or_another_one_is_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.write(stream(23, WORKSPACES, 300))
    await project(log)
    whole = await log.read(EVENTS)
    before = await stored(log.database)
    await _delete(log, EVENTS)
    await _rewrite(log, [record for record in whole if record.offset < 20])
    monkeypatch.setattr(rebuilding, "_FEW", 0)  # A process of the rebuild finds it, and tells its parent.
    with pytest.raises(NotRebuildable, match="lost its tail"):
        await rebuilt(log)
    monkeypatch.undo()
    await rebuilding.cancel(log.settings)
    await _delete(log, EVENTS)
    first = whole[0].partition
    mine = [record for record in whole if record.partition == first]
    others = [record for record in whole if record.partition != first]
    await _rewrite(log, [*mine[:5], mine[6], mine[5], *mine[7:], *others])
    with pytest.raises(NotRebuildable, match="at offset 5 the log's record does not fit"):
        await rebuilt(log)
    compare(before, await stored(log.database))
    await _delete(log, EVENTS)
    await _write_in_vain(log, {record.partition: record.offset + 1 for record in whole})
    monkeypatch.setattr(replay, "SILENT_SECONDS", 0.5)
    with pytest.raises(NotRebuildable, match="the broker has a record at offset 0 and did not hand it out"):
        await rebuilt(log)
    compare(before, await stored(log.database))


async def _write_in_vain(log: Log, counts: Mapping[int, int]) -> None:
    """So many records in these partitions, in a transaction that is never committed: the broker has them for nobody."""
    settings = log.settings.kafka
    writer = producer(settings, transactional_id=settings.prefix)
    await writer.start()
    try:
        await writer.begin_transaction()
        for partition, count in counts.items():
            for _ in range(count):
                await writer.send(topic_name(settings, EVENTS), b"never", partition=partition)
        await writer.flush()
        await writer.abort_transaction()
    finally:
        await writer.stop()


async def test_a_log_that_was_completed_from_the_journal_gives_the_times_that_were_judged(log: Log) -> None:
    await log.write(stream(24, WORKSPACES, 300))
    await project(log)
    whole, before = await log.read(EVENTS), await stored(log.database)
    await _delete(log, EVENTS)
    await _rewrite(log, whole)  # With new times, as a broker stamps them.
    assert (await rebuilt(log)).run.report.differing == 0
    compare(before, await stored(log.database))
