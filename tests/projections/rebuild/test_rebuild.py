"""A rebuild on a real broker and a real database: the same rows, made anew, and nothing else is done by it."""

from __future__ import annotations

from typing import Any

import pytest

from projections.rebuild import replay as replaying
from projections.rebuild import run as rebuilding
from projections.rebuild import runs
from schemas.topics import EVENTS, FACTS, JOBS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, project
from tests.projections.rebuild.conftest import WORKSPACES, rebuilt, rolled_back
from tests.projections.records import Written, one_job, stream, written

_INDEXES = "SELECT schemaname, tablename, indexname, indexdef FROM pg_indexes WHERE schemaname IN ('log', 'read')"
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace IN ('log'::regnamespace, 'read'::regnamespace)
"""
_OPTIONS = """
SELECT oid::regclass::text, array_to_string(reloptions, ','), relacl::text, obj_description(oid) FROM pg_class
 WHERE relkind = 'r' AND relnamespace IN ('log'::regnamespace, 'read'::regnamespace)
"""


async def generation(log: Log) -> int:
    return int(await log.database.fetchval("SELECT max(generation) FROM log.cursors"))


async def shape(log: Log) -> list[Any]:
    """Everything that the database says of the live tables beside their rows."""
    found = [await log.database.fetch(query) for query in (_INDEXES, _CONSTRAINTS, _OPTIONS)]
    return [sorted(tuple(row) for row in rows) for rows in found]


async def test_new_tables_are_the_fold_of_the_log_and_the_projector_goes_on_with_them(log: Log) -> None:
    await log.write(stream(1, WORKSPACES, 3_000))
    await project(log)
    before = await stored(log.database)
    done = await rebuilt(log)
    assert (done.run.state, done.run.report.differing, done.run.report.verdicts) == ("swapped", 0, 0)
    assert done.run.report.records == len(before["journal"])
    assert sum(t.rows for t in done.run.report.tables.values()) == sum(len(before[name]) for name in runs.NAMES)
    compare(before, await stored(log.database))
    assert await generation(log) == 1
    await log.write(stream(2, WORKSPACES, 500))
    await project(log)
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))


async def test_processes_of_its_own_judge_what_is_long(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "_FEW", 0)
    await log.write(stream(1, WORKSPACES, 2_000))
    await project(log)
    before = await stored(log.database)
    assert (await rebuilt(log)).run.state == "swapped"
    compare(before, await stored(log.database))


@pytest.mark.parametrize(("records", "keys"), [(1, 12), (7, 12), (1_000, 24)])
async def test_any_size_of_batches_and_of_memory_gives_the_same_rows(
    log: Log, monkeypatch: pytest.MonkeyPatch, records: int, keys: int
) -> None:
    monkeypatch.setattr(replaying, "BATCH_RECORDS", records)
    monkeypatch.setattr(replaying, "MEMORY_KEYS", keys)
    await log.write(stream(11, WORKSPACES[:3], 300 if records == 1 else 1_500))
    await project(log)
    before = await stored(log.database)
    assert (await rebuilt(log)).run.report.differing == 0
    compare(before, await stored(log.database))


async def test_the_new_tables_have_the_indexes_constraints_options_and_rights_of_the_old(log: Log) -> None:
    await log.write(one_job("team"))
    await project(log)
    await log.database.execute("GRANT SELECT ON read.jobs TO PUBLIC")
    before = await shape(log)
    await rebuilt(log)
    assert await shape(log) == before
    await rolled_back(log)
    assert await shape(log) == before


async def test_it_publishes_nothing_and_leaves_what_is_published_where_it_is(log: Log) -> None:
    await log.write(stream(1, WORKSPACES, 500))
    await project(log)
    cursors = await log.database.fetch("SELECT partition, next_offset, published, rules, chain FROM log.cursors")
    facts, rows = await log.read(FACTS), await log.read(JOBS)
    await rebuilt(log)
    assert [r.value for r in await log.read(FACTS)] == [r.value for r in facts]
    assert [r.value for r in await log.read(JOBS)] == [r.value for r in rows]
    again = await log.database.fetch("SELECT partition, next_offset, published, rules, chain FROM log.cursors")
    assert sorted(map(tuple, again)) == sorted(map(tuple, cursors))


async def test_a_log_that_was_never_written_to_is_rebuilt_too(log: Log) -> None:
    done = await rebuilt(log)
    assert (done.run.state, done.run.report.records) == ("swapped", 0)


async def test_what_nobody_can_read_is_refused_anew(log: Log) -> None:
    poison = [Written(b"team", value) for value in (None, b"", b"not json", b"{}")]
    late = written(one_job_event(), workspace="team", subject="nobody")
    await log.write([*one_job("team"), *poison, late, Written(b"other", late.value)])
    await project(log)
    before = await stored(log.database)
    done = await rebuilt(log)
    assert (done.run.report.differing, done.run.report.verdicts) == (0, 0)
    compare(before, await stored(log.database))


def one_job_event() -> Any:
    from domain.events import JobStopRequested

    return JobStopRequested()


@pytest.mark.parametrize("name", runs.NAMES)
async def test_one_alone_is_swapped_alone_and_rolled_back_alone(log: Log, name: str) -> None:
    await log.write(stream(3, WORKSPACES, 600))
    await project(log)
    oids = {n: await log.database.fetchval("SELECT $1::text::regclass::oid", home) for n, home in homes()}
    done = await rebuilt(log, projections=(name,))
    assert list(done.run.report.tables) == [name]
    now = {n: await log.database.fetchval("SELECT $1::text::regclass::oid", home) for n, home in homes()}
    assert {n for n in oids if oids[n] != now[n]} == {name}
    await log.write(stream(4, WORKSPACES, 100))
    await project(log)
    await rolled_back(log)
    again = {n: await log.database.fetchval("SELECT $1::text::regclass::oid", home) for n, home in homes()}
    assert again == oids
    await project(log)
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))


def homes() -> list[tuple[str, str]]:
    from projections.tables import HOMES

    return list(HOMES.items())


async def test_a_rollback_catches_up_and_can_be_taken_back(log: Log) -> None:
    with pytest.raises(rebuilding.NothingKept):
        await rolled_back(log)
    await log.write(stream(5, WORKSPACES, 1_000))
    await project(log)
    await rebuilt(log)
    for seed in (6, 7, 8):
        await log.write(stream(seed, WORKSPACES, 200))
        await project(log)
        assert (await rolled_back(log)).run.state == "swapped"
        await project(log)
        compare(fold_of(await log.read(EVENTS)), await stored(log.database))
    await rebuilding.drop_previous(log.settings)
    with pytest.raises(rebuilding.NothingKept):
        await rolled_back(log)


async def test_a_dry_run_compares_and_leaves_nothing_behind(log: Log) -> None:
    await log.write(stream(1, WORKSPACES, 500))
    await project(log)
    await log.database.execute("DELETE FROM read.epochs WHERE ctid IN (SELECT ctid FROM read.epochs LIMIT 1)")
    ends, before = await log.ends(EVENTS), await stored(log.database)
    done = await rebuilt(log, dry_run=True)
    assert done.run.report.records == len(before["journal"])
    assert (done.run.state, done.run.report.tables["epochs"].missing, done.noted) == ("compared", 1, "none")
    compare(before, await stored(log.database))
    assert await log.ends(EVENTS) == ends
    assert not await log.database.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'next'::regnamespace")
    with pytest.raises(rebuilding.NothingKept):
        await rolled_back(log)


async def test_snapshots_of_time_travel_are_made_anew(log: Log) -> None:
    await log.write(one_job("team", epochs=200))
    await project(log)
    made = await rebuilding.renew_snapshots(log.settings)
    assert made == await log.database.fetchval("SELECT count(*) FROM audit.job_states") == 3
    await log.database.execute("UPDATE audit.job_states SET state = '{}'")
    assert await rebuilding.renew_snapshots(log.settings) == made
    assert await log.database.fetchval("SELECT count(*) FROM audit.job_states WHERE state = '{}'") == 0
