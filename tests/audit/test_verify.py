"""One changed byte anywhere is found, and its place is named: in the log, the journal, and every row folded from them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import pytest_asyncio
from pydantic import SecretStr

from adapters.kafka import partition_of, topic_name
from adapters.settings import Settings
from adapters.topics import create_topics
from audit import seals, segments
from audit.findings import Break, Report
from audit.fold import Fold, Unjudgeable
from audit.seals import Anchor, Head
from audit.verify import NotVerifiable, Wishes, Work, _run, verify
from domain.events import RulesActivated
from domain.workspace import Workspace
from projections import snapshots
from projections.reading import read
from schemas.topics import EVENTS
from tests.projections.platform import ROOT, Log, project
from tests.projections.records import Written, one_job, stream, written
from tests.servers import Servers

KEY = bytes(range(32))


async def verified(settings: Settings, **wishes: Any) -> Report:
    return await verify(settings, Wishes(processes=1, silent_seconds=5.0, **wishes))


@pytest_asyncio.fixture
async def history(log: Log) -> Log:
    """Two workspaces in one partition and one in another, records of every kind, all of it stored."""
    records = [
        *one_job("team-0", epochs=3),
        *stream(11, ["team-0", "team-1"], 160),
        Written(b"team-0", b"no record of ours"),
        Written(b"system", written(RulesActivated(rules=7), workspace="system", subject="rules").value, (), 3),
        Written(b"team-1", None),
    ]
    await log.write(records)
    await project(log)
    return log


def first(report: Report) -> Break:
    assert not report.ok
    return report.breaks[0]


async def test_what_was_not_altered_is_whole(history: Log) -> None:
    report = await verified(history.settings)
    assert report.breaks == []
    assert report.ok
    assert report.effective + report.refused == report.records == sum((await history.ends(EVENTS)).values())
    assert report.effective == await history.database.fetchval(
        "SELECT count(*) FROM log.journal WHERE version IS NOT NULL"
    )
    assert report.refused > 10


async def test_several_processes_find_the_same(log: Log) -> None:
    await log.write(stream(3, [f"team-{number}" for number in range(6)], 2_200))
    await project(log)
    done: list[tuple[int, int]] = []
    report = await verify(log.settings, Wishes(processes=2), lambda count, of: done.append((count, of)))
    assert report.ok, report.breaks
    assert done[-1] == (report.records, report.records)
    await log.database.execute("UPDATE read.epochs SET at = at + 1 WHERE (workspace, version) = ('team-3', 40)")
    broken = await log.database.fetchrow("SELECT * FROM read.epochs ORDER BY at DESC LIMIT 1")
    await log.database.execute(
        "UPDATE read.epochs SET at = at + 1 WHERE (workspace, version) = ($1, $2)",
        broken["workspace"],
        broken["version"],
    )
    found = first(await verify(log.settings, Wishes(processes=2)))
    assert (found.table, found.column) == ("read.epochs", "at")


async def test_what_is_not_judged_yet_is_counted_and_left(history: Log) -> None:
    await history.write(one_job("team-5"))
    report = await verified(history.settings)
    assert report.ok
    assert report.unjudged == len(one_job("team-5"))


# --- the database -----------------------------------------------------------------------------------------------------

TABLES = {
    "log.journal": ("partition", "offset"),
    "log.requests": ("workspace", "id"),
    "log.workspaces": ("workspace", "partition"),
    "log.cursors": ("partition",),
    "read.jobs": ("workspace", "job_id"),
    "read.epochs": ("workspace", "job_id", "attempt", "epoch"),
    "read.checkpoints": ("workspace", "job_id", "attempt", "epoch", "step"),
    "read.datasets": ("workspace", "dataset_id"),
    "read.models": ("workspace", "name", "number"),
    "audit.job_states": ("workspace", "job_id", "version"),
}
NOT_DERIVED = {("log.cursors", "published"), ("log.cursors", "generation"), ("audit.job_states", "offset")}
"""How far facts were acknowledged is no matter of the log. A snapshot's offset is told by its version."""


def changed(value: Any) -> Any:
    """The value with one byte, character or unit changed."""
    match value:
        case None:
            return None
        case bool():
            return not value
        case int():
            return value + 1_000_000
        case bytes():
            middle = len(value) // 2
            return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
        case str():
            return value[:-1] + ("x" if value[-1:] != "x" else "y")
    raise AssertionError(type(value))


@pytest.mark.parametrize("table", TABLES)
async def test_one_changed_value_in_any_column_is_found_and_named(
    history: Log, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr("projections.as_of.EVERY", 3)
    monkeypatch.setattr("projections.snapshots.EVERY", 3)
    async with asyncpg.create_pool(history.settings.database.url.get_secret_value(), min_size=1) as pool:
        assert await snapshots.catch_up(pool) > 3
    database, keys = history.database, TABLES[table]
    rows = [dict(row) for row in await database.fetch(f"SELECT * FROM {table}")]
    looked_at = 0
    for column in rows[0]:
        candidates = [row for row in rows if row[column] not in (None, "", b"")]
        if not candidates or (table, column) in NOT_DERIVED:
            continue
        row = candidates[len(candidates) // 2]
        if (table, column) == ("log.cursors", "partition"):
            continue  # Its values are few and all taken.
        place = " AND ".join(f'"{key}" = ${number}' for number, key in enumerate(keys, 2))
        values = [row[key] for key in keys]
        await database.execute(f'UPDATE {table} SET "{column}" = $1 WHERE {place}', changed(row[column]), *values)
        report = await verified(history.settings)
        now = [changed(value) if key == column else value for key, value in zip(keys, values, strict=True)]
        await database.execute(f'UPDATE {table} SET "{column}" = $1 WHERE {place}', row[column], *now)
        found = first(report)
        looked_at += 1
        places = {(b.table, b.column) for b in report.breaks}
        if column in (*keys, "partition", "offset", "version") or table == "log.cursors":
            assert any(b.table == table for b in report.breaks), (column, report.breaks)
        elif table == "audit.job_states":
            assert found.table == table
        else:
            assert (table, column) in places, (column, report.breaks)
        if table in ("log.journal", "log.requests") and column not in ("partition", "offset"):
            assert (found.partition, found.offset) == (row["partition"], row["offset"])
        elif table.startswith("read.") and column not in keys:
            assert found.row is not None
            assert found.row.split()[: len(keys)] == [str(value) for value in values]
    assert looked_at >= len(rows[0]) - 3
    assert (await verified(history.settings)).ok


async def insert(database: asyncpg.Connection, table: str, row: dict[str, Any]) -> None:
    columns = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await database.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *row.values())


async def delete(database: asyncpg.Connection, table: str, row: dict[str, Any]) -> None:
    keys = TABLES[table]
    place = " AND ".join(f'"{key}" = ${number}' for number, key in enumerate(keys, 1))
    assert await database.execute(f"DELETE FROM {table} WHERE {place}", *(row[key] for key in keys)) == "DELETE 1"


async def test_a_row_that_is_gone_is_found(history: Log) -> None:
    for table in TABLES.keys() - {"audit.job_states", "log.cursors"}:
        rows = await history.database.fetch(f"SELECT * FROM {table}")
        row = dict(rows[len(rows) // 2])
        await delete(history.database, table, row)
        report = await verified(history.settings)
        await insert(history.database, table, row)
        assert first(report).table == table
        assert first(report).what in ("row_missing", "journal_lacks_row", "request_missing")
        if table == "log.journal":
            assert (first(report).partition, first(report).offset) == (row["partition"], row["offset"])


async def test_a_row_too_many_is_found(history: Log) -> None:
    for table in ("read.jobs", "read.epochs", "read.checkpoints", "read.datasets", "read.models"):
        for workspace in ("team-0", "a-stranger"):
            row = dict(await history.database.fetchrow(f"SELECT * FROM {table} LIMIT 1"))
            row |= {"workspace": workspace, TABLES[table][1]: "invented"} | ({"number": 99} if "number" in row else {})
            await insert(history.database, table, row)
            report = await verified(history.settings)
            await delete(history.database, table, row)
            assert {(b.what, b.table) for b in report.breaks} == {("row_extra", table)}


async def test_a_verdict_that_another_was_given_is_found(history: Log) -> None:
    refused = await history.database.fetchrow(
        "SELECT partition, \"offset\" FROM log.journal WHERE refusal = 'fenced' LIMIT 1"
    )
    await history.database.execute(
        "UPDATE log.journal SET refusal = 'claim_lost' WHERE (partition, \"offset\") = ($1, $2)", *refused
    )
    found = first(await verified(history.settings))
    assert (found.what, found.partition, found.offset) == ("verdict_differs", *refused)
    assert "'claim_lost'" in found.detail
    assert "'fenced'" in found.detail


async def test_a_journal_whose_tail_was_cut_is_found(history: Log) -> None:
    partition, end = await history.database.fetchrow(
        "SELECT partition, next_offset FROM log.cursors ORDER BY next_offset DESC LIMIT 1"
    )
    await history.database.execute(
        'DELETE FROM log.journal WHERE partition = $1 AND "offset" >= $2', partition, end - 3
    )
    found = first(await verified(history.settings))
    assert (found.what, found.partition, found.offset) == ("cursor_differs", partition, end - 3)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker_folder(servers: Servers) -> Path:
    """Where the run's broker keeps its data."""
    return servers.folder / "kafka" / "data"


def segment(log: Log, broker_folder: Path, partition: int) -> Path:
    return next((broker_folder / f"{topic_name(log.settings.kafka, EVENTS)}-{partition}").glob("*.log"))


async def longest(log: Log) -> int:
    return int(await log.database.fetchval("SELECT partition FROM log.cursors ORDER BY next_offset DESC LIMIT 1"))


def flip(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


async def test_a_byte_of_a_record_on_the_brokers_disk_is_found_and_its_record_named(
    history: Log, broker_folder: Path
) -> None:
    partition = await longest(history)
    file = segment(history, broker_folder, partition)
    row = await history.database.fetchrow(
        'SELECT "offset", value FROM log.journal WHERE partition = $1 AND value IS NOT NULL'
        ' ORDER BY "offset" OFFSET 20 LIMIT 1',
        partition,
    )
    place = file.read_bytes().index(row["value"]) + len(row["value"]) // 2
    flip(file, place)
    found = first(await verified(history.settings))
    assert (found.what, found.partition, found.offset, found.column) == (
        "log_altered", partition, row["offset"], "value",
    )  # fmt: skip
    found = first(await verified(history.settings, segments=broker_folder))
    assert found.what == "log_segment_altered"
    assert found.partition == partition
    flip(file, place)
    assert (await verified(history.settings, segments=broker_folder)).ok


async def test_a_byte_that_no_checksum_covers_is_found_on_the_brokers_disk(history: Log, broker_folder: Path) -> None:
    """The leader epoch of a batch: no consumer sees it."""
    partition = await longest(history)
    file = segment(history, broker_folder, partition)
    flip(file, 15)
    assert (await verified(history.settings)).ok
    found = first(await verified(history.settings, segments=broker_folder))
    assert (found.what, found.partition, found.offset) == ("log_segment_altered", partition, 0)
    assert "leader epoch" in found.detail
    flip(file, 15)


async def test_every_single_byte_of_a_segment_counts(log: Log, broker_folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        await log.write(one_job(f"team-{number % 1}", epochs=2))
    end = sum((await log.ends(EVENTS)).values())
    partition = next(number for number, count in (await log.ends(EVENTS)).items() if count)
    source = segment(log, broker_folder, partition)
    folder = tmp_path / "part-0"
    folder.mkdir()
    for name in ("leader-epoch-checkpoint", source.name):
        (folder / name).write_bytes((source.parent / name).read_bytes())
    assert segments.check(folder, partition, end) is None
    whole = (folder / source.name).read_bytes()
    assert len(whole) > 5_000
    for place in range(len(whole)):
        flip(folder / source.name, place)
        assert segments.check(folder, partition, end) is not None, place
        flip(folder / source.name, place)
    (folder / source.name).write_bytes(whole[:-1])
    found = segments.check(folder, partition, end)
    assert found is not None
    (folder / source.name).write_bytes(b"")
    assert segments.check(folder, partition, end) is not None


@pytest.mark.parametrize("list_of_epochs", [None, "0\n1\nzero 0\n"], ids=["missing", "unreadable"])
async def test_a_segment_whose_epochs_the_broker_has_no_list_of_is_not_whole(
    log: Log, broker_folder: Path, tmp_path: Path, list_of_epochs: str | None
) -> None:
    await log.write(one_job("team"))
    partition, end = next((number, end) for number, end in (await log.ends(EVENTS)).items() if end)
    source = segment(log, broker_folder, partition)
    (tmp_path / source.name).write_bytes(source.read_bytes())
    if list_of_epochs is not None:
        (tmp_path / "leader-epoch-checkpoint").write_text(list_of_epochs)
    found = segments.check(tmp_path, partition, end)
    assert found is not None
    assert "leader epoch is 0, and the broker's list says None" in found.detail


async def test_a_stored_job_that_is_no_json_any_more_is_told_as_such(history: Log) -> None:
    await history.database.execute(
        "UPDATE read.jobs SET state = $1 WHERE ctid IN (SELECT ctid FROM read.jobs LIMIT 1)", b"\xff{"
    )
    found = first(await verified(history.settings))
    assert (found.table, found.column) == ("read.jobs", "state")
    assert found.detail.endswith("and is no JSON any more")


async def test_an_outage_that_a_process_of_the_verification_meets_can_be_told_to_the_one_that_began_it(
    log: Log,
) -> None:
    """A snapshot that is gone, since the one who held it lost its connection: PostgreSQL's error cannot be sent."""
    cursor = {"partition": 3, "next_offset": 1, "log_first": 0, "log_end": 1}
    work = Work(log.settings, "00000003-00000001-1", cursor, (), (), 1.0)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        running = asyncio.get_running_loop().run_in_executor(pool, _run, work)
        with pytest.raises(NotVerifiable, match="snapshot"):
            await running


def test_a_mistake_of_ours_in_judging_is_no_verdict() -> None:
    fold, partition = Fold(), partition_of(b"team", EVENTS.partitions)
    fold.workspaces["team"] = broken = Workspace("team")
    broken.jobs = None  # type: ignore[assignment]
    with pytest.raises(Unjudgeable, match="Error: "):
        [
            fold.judge(0, record.key, record.value, read(record.key, record.value, partition))
            for record in one_job("team")
        ]


async def on_other_topics(settings: Settings) -> Settings:
    """Topics for another log of the same database; they are deleted with the test's own, whose prefix they have."""
    prefix = f"{settings.kafka.prefix}other."
    other = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"prefix": prefix})})
    await create_topics(other.kafka)
    return other


async def test_a_log_that_another_was_put_in_place_of_is_told_from_an_altered_journal(
    history: Log, kafka_settings: dict[str, str]
) -> None:
    """The same records but one, on other topics: the journal's own chain says that it is the log that differs."""
    other = await on_other_topics(history.settings)
    records = await history.read(EVENTS)
    partition = await longest(history)
    altered = [r for r in records if r.partition == partition][30]
    async with Log.of(other) as forged:
        await forged.write(
            [
                Written(r.key, r.value if r is not altered else b'{"forged": true}', tuple(r.headers), r.partition)
                for r in records
            ]
        )
    found = next(b for b in (await verified(other)).breaks if b.partition == partition)
    assert (found.what, found.offset) == ("log_altered", altered.offset)


async def test_a_log_that_was_completed_from_the_journal_is_whole(history: Log) -> None:
    """The broker stamps such records anew; the journal keeps the times that were judged and hashed."""
    other = await on_other_topics(history.settings)
    records = await history.read(EVENTS)
    async with Log.of(other) as again:
        await again.write([Written(r.key, r.value, tuple(r.headers), r.partition) for r in records])
    report = await verified(other)
    assert report.ok, report.breaks
    assert report.restored == len(records)


async def test_a_log_that_is_too_short_is_found(history: Log) -> None:
    other = await on_other_topics(history.settings)
    records = await history.read(EVENTS)
    partition = await longest(history)
    kept = [r for r in records if r.partition == partition][:-4]
    async with Log.of(other) as short:
        await short.write([Written(r.key, r.value, tuple(r.headers), r.partition) for r in kept])
    found = next(b for b in (await verified(other)).breaks if b.partition == partition)
    assert (found.what, found.offset) == ("log_is_shorter", len(kept))


# --- anchors and seals ------------------------------------------------------------------------------------------------


async def heads(log: Log) -> tuple[str, list[Head]]:
    return await seals.heads_of(log.database)


async def test_an_anchor_is_checked_where_it_lies_in_the_history(history: Log, tmp_path: Path) -> None:
    log_id, found = await heads(history)
    seals.write_anchor(tmp_path / "anchor.json", log_id, seals.now_ms(), found, KEY)
    await history.write(stream(2, ["team-0"], 30))
    await project(history)
    anchor = seals.read_anchor(tmp_path / "anchor.json", KEY)
    assert anchor.signed
    report = await verified(history.settings, anchor=anchor)
    assert report.ok, report.breaks
    assert report.anchors == len(found)
    assert not report.notes


async def test_a_history_that_was_rewritten_in_the_log_and_the_journal_alike_differs_from_the_anchor(
    history: Log,
) -> None:
    log_id, found = await heads(history)
    rewritten = [Head(h.partition, h.next_offset, bytes([h.chain[0] ^ 1]) + h.chain[1:]) for h in found]
    report = await verified(history.settings, anchor=Anchor(log_id, 0, (rewritten[0],)))
    assert first(report).what == "anchor_differs"
    assert (first(report).partition, first(report).offset) == (rewritten[0].partition, rewritten[0].next_offset)


async def test_a_history_whose_end_was_cut_everywhere_differs_from_the_anchor(history: Log) -> None:
    log_id, found = await heads(history)
    longer = Head(found[0].partition, found[0].next_offset + 5, found[0].chain)
    report = await verified(history.settings, anchor=Anchor(log_id, 0, (longer,)))
    assert (first(report).what, first(report).offset) == ("anchor_beyond", found[0].next_offset)


async def test_an_anchor_of_another_log_says_so(history: Log) -> None:
    _, found = await heads(history)
    report = await verified(history.settings, anchor=Anchor("another", 0, tuple(found)))
    assert first(report).what == "anchor_foreign"


async def test_seals_are_checked_with_the_key_and_noted_without(history: Log) -> None:
    log_id, found = await heads(history)
    assert await seals.store_seals(history.database, KEY, log_id, 1, found) == len(found)
    assert await seals.store_seals(history.database, KEY, log_id, 2, found) == 0
    assert (await verified(history.settings, key=KEY)).seals == len(found)
    unchecked = await verified(history.settings)
    assert unchecked.ok
    assert any("seals were not checked" in note for note in unchecked.notes)
    another = await verified(history.settings, key=KEY[::-1])
    assert {b.what for b in another.breaks} == {"seal_forged"}
    await history.database.execute("UPDATE audit.seals SET chain = decode(repeat('ab', 32), 'hex')")
    assert {b.what for b in (await verified(history.settings, key=KEY)).breaks} == {"seal_forged"}


def test_an_altered_anchor_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "anchor.json"
    seals.write_anchor(file, "log", 1, [Head(0, 10, bytes(32))], KEY)
    document = json.loads(file.read_text())
    document["heads"][0]["next_offset"] = 9
    file.write_text(json.dumps(document))
    with pytest.raises(seals.AnchorUnusable, match="signature"):
        seals.read_anchor(file, KEY)
    assert seals.read_anchor(file, None).signed is None


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"format": 2}', '{"format": 1, "heads": [{}]}', '{"format": 1, "log_id": 1}', "\xff"]
)
def test_what_is_no_anchor_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "anchor.json").write_text(text, encoding="latin-1")
    with pytest.raises(seals.AnchorUnusable):
        seals.read_anchor(tmp_path / "anchor.json", KEY)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = seals.make_key(tmp_path / "audit.key")
    assert len(key) == 32
    assert seals.read_key(tmp_path / "audit.key") == key
    with pytest.raises(FileExistsError):
        seals.make_key(tmp_path / "audit.key")
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(seals.KeyUnusable, match="read by others"):
        seals.read_key(tmp_path / "audit.key")
    for content in ("", "zz", "00" * 8):
        (tmp_path / "bad").write_text(content)
        (tmp_path / "bad").chmod(0o600)
        with pytest.raises(seals.KeyUnusable):
            seals.read_key(tmp_path / "bad")


# --- the command ------------------------------------------------------------------------------------------------------


async def command(log: Log, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "audit", *arguments, cwd=ROOT, env=log.environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest_asyncio.fixture
async def small(log: Log) -> AsyncIterator[Log]:
    await log.write(one_job("team-0"))
    await project(log)
    yield log


async def test_the_command_writes_an_anchor_verifies_and_tells_by_its_status(small: Log, tmp_path: Path) -> None:
    anchor, key = tmp_path / "anchor.json", tmp_path / "key"
    seals.make_key(key)
    status, out, _ = await command(small, "anchor", str(anchor), "--key", str(key))
    assert status == 0
    assert "signed; 1 new seals" in out
    status, out, _ = await command(small, "verify", "--anchor", str(anchor), "--key", str(key))
    assert (status, out.splitlines()[0].split(":")[0]) == (0, "Nothing is broken")
    await small.database.execute("UPDATE read.jobs SET priority = 3")
    status, out, _ = await command(small, "verify", "--json")
    assert status == 1
    report = json.loads(out)
    assert report["ok"] is False
    assert report["breaks"][0]["column"] == "priority"
    status, out, _ = await command(small, "verify")
    assert status == 1
    assert out.startswith("The first break is at read.jobs, row team-0 ")


async def test_servers_that_are_away_are_no_break(small: Log) -> None:
    small.settings.database.url = SecretStr("postgresql://ravand@127.0.0.1:9/ravand")
    status, out, err = await command(small, "verify")
    assert (status, out) == (1, "")
    assert err.startswith("Nothing could be verified: ")
    assert "Traceback" not in err


async def test_a_process_that_is_killed_is_said_and_is_no_break(log: Log) -> None:
    """As when memory runs out: one of the processes is gone, and nothing can be said of its partitions."""
    await log.write(stream(3, [f"team-{number}" for number in range(6)], 2_200))
    await project(log)

    async def kill_one() -> None:
        while True:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()):
                        child.kill()
                        return
            await asyncio.sleep(0.005)

    killing = asyncio.create_task(kill_one())
    with pytest.raises(NotVerifiable, match="was killed"):
        await verify(log.settings, Wishes(processes=2))
    await killing
