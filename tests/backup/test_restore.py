"""A restored installation is the one that was backed up, under a new log id; and nothing else is ever restored."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adapters import log_times
from adapters.migrations.tables import metadata
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from adapters.topics import WrongTopics, check_topics
from audit.seals import Anchor, Head
from audit.verify import Wishes, verify
from backup import restore as restoring
from backup.check import check
from backup.cut import FOLDED, LEFT_OUT, SAVED
from backup.log_restore import LogRestore
from backup.manifest import BackupRefused, hash_line
from backup.restore import restore
from backup.take import take
from cli.backup import _checked, _run
from cli.errors import CommandError
from schemas.facts import VERSION_HEADER
from schemas.topics import DEADLETTER, EVENTS, FACTS
from tests.api.platform import initialise
from tests.backup.conftest import Fresh, held
from tests.powerless import powerless
from tests.projections.platform import Log, project
from tests.projections.records import one_job
from tests.projections.test_projector import check_everything

pytestmark = [pytest.mark.timeout(240)]


async def test_everything_is_as_it_was_and_the_log_has_a_new_id(source: Settings, taken: Path, fresh: Fresh) -> None:
    target = fresh("target")
    manifest, log_id = await restore(target, taken)
    before, after = await held(source), await held(target)
    assert after.log == before.log, "offsets, times, keys, values and headers"
    assert len(before.log) == manifest.records
    for table, rows in before.rows.items():
        assert after.rows[table] == rows, table
    assert after.objects == before.objects
    assert before.log_id == manifest.log_id != after.log_id == log_id
    async with Log.of(target) as log:
        await check_everything(log)
        async with Log.of(source) as old:
            assert await _facts(log) == await _facts(old)
            assert len(await log.read(DEADLETTER)) == len(await old.read(DEADLETTER))
        assert await log.database.fetchval("SELECT count(*) FROM accounts.sessions") == 0
        # It goes on as any other, with the broker's times.
        await check_topics(target.kafka)
        await log.write(one_job("team-1"))
        await project(log)
        await check_everything(log)
        newest = max(await log.read(EVENTS), key=lambda record: record.timestamp)
        assert newest.timestamp_type == 1, "the broker's"


async def _facts(log: Log) -> dict[tuple[Any, ...], Any]:
    found = await log.read(FACTS)
    return {(r.partition, r.key, dict(r.headers)[VERSION_HEADER]): r.value for r in found}


async def test_a_restored_installation_can_be_backed_up_and_restored_again(
    taken: Path, fresh: Fresh, tmp_path: Path
) -> None:
    second, third = fresh("second"), fresh("third")
    await restore(second, taken)
    again = await take(second, tmp_path / "again")
    first = check(taken)
    assert again.partitions == first.partitions
    await restore(third, tmp_path / "again")
    assert (await held(third)).log == (await held(second)).log
    connection = await asyncpg.connect(third.database.url.get_secret_value())
    try:
        ancestors = {row[0] for row in await connection.fetch("SELECT DISTINCT log_id FROM log.ancestors")}
    finally:
        await connection.close()
    assert ancestors == {first.log_id, again.log_id}


class TestAnchorsAfterARestore:
    """They prove what both logs have in common, and say what was not restored."""

    @pytest.mark.parametrize(
        ("younger", "log_id", "said"),
        [(0, None, set()), (1, None, {"anchor_beyond"}), (0, "another", {"anchor_foreign"})],
        ids=["as old as the backup", "younger", "of another log"],
    )
    async def test_of_the_log_that_was_backed_up(
        self, taken: Path, fresh: Fresh, younger: int, log_id: str | None, said: set[str]
    ) -> None:
        target = fresh("anchored")
        manifest, _ = await restore(target, taken)
        heads = tuple(
            Head(cut.partition, cut.next_offset + younger, bytes.fromhex(cut.chain)) for cut in manifest.partitions
        )
        anchor = Anchor(log_id or manifest.log_id, 0, heads)
        report = await verify(target, Wishes(anchor=anchor, processes=1))
        # Offsets and rows of foreign programs are in this log too: what matters here is what is said of the anchor.
        assert {found.what for found in report.breaks if found.what.startswith("anchor")} == said
        assert report.anchors == (0 if said else len(heads))

    async def test_a_head_that_differs_is_found(self, taken: Path, fresh: Fresh) -> None:
        target = fresh("anchored")
        manifest, _ = await restore(target, taken)
        wrong = Anchor(
            manifest.log_id, 0, (Head(manifest.partitions[0].partition, manifest.partitions[0].next_offset, bytes(32)),)
        )
        report = await verify(target, Wishes(anchor=wrong, processes=1))
        assert "anchor_differs" in {found.what for found in report.breaks}


def test_every_table_is_saved_folded_or_left_out_on_purpose() -> None:
    known = {f"{table.schema}.{table.name}" for table in metadata.sorted_tables}
    assert known == {*SAVED, *FOLDED, *LEFT_OUT}


class TestABackupThatIsNotWhole:
    """Refused by name, before anything is written."""

    @staticmethod
    def _first(folder: Path, pattern: str) -> Path:
        return sorted(path for path in folder.glob(pattern) if path.is_file() and path.stat().st_size > 100)[0]

    async def _refused(self, folder: Path, fresh: Fresh, said: str) -> None:
        target = fresh("refusing")
        with pytest.raises(BackupRefused, match=said):
            await restore(target, folder)
        async with Log.of(target) as log:
            assert not await log.database.fetchval("SELECT to_regclass('log.journal') IS NOT NULL")
            assert await log_times.are_own(target.kafka) is False
            with pytest.raises(WrongTopics, match="is missing"):
                await check_topics(target.kafka)
        assert not await ObjectStore(target.store.url).available()

    @pytest.mark.parametrize(
        "pattern", ["log/*", "database/accounts.users.copy", "objects/datasets/*", "objects.jsonl"]
    )
    @pytest.mark.parametrize("how", ["cut", "altered", "missing"])
    async def test_a_file_that_is_cut_altered_or_missing(
        self, taken: Path, tmp_path: Path, fresh: Fresh, pattern: str, how: str
    ) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(taken, folder)
        file = self._first(folder, pattern)
        data = bytearray(file.read_bytes())
        match how:
            case "cut":
                file.write_bytes(data[:-1])
            case "altered":
                data[len(data) // 2] ^= 1
                file.write_bytes(data)
            case _:
                file.unlink()
        with pytest.raises(BackupRefused, match=str(file.relative_to(folder))):
            check(folder)
        if pattern == "log/*":
            await self._refused(folder, fresh, str(file.relative_to(folder)))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda folder: (folder / "more").write_text("x"), "more does not belong"),
            (lambda folder: (folder / "objects" / "link").symlink_to("/etc/passwd"), "no plain file"),
            (lambda folder: (folder / "manifest.json").unlink(), "no finished backup"),
            (lambda folder: (folder / "manifest.sha256").unlink(), "no finished backup"),
            (
                lambda folder: _altered(folder, b'"objects": 5', b'"objects": 4'),
                "manifest.json is not what was written",
            ),
        ],
    )
    def test_a_folder_that_is_not_what_was_written(
        self, taken: Path, tmp_path: Path, change: Callable[[Path], Any], said: str
    ) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(taken, folder)
        change(folder)
        with pytest.raises(BackupRefused, match=said):
            check(folder)

    def test_a_newer_format(self, taken: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(taken, folder)
        document = (folder / "manifest.json").read_bytes().replace(b'"format": 1', b'"format": 2')
        (folder / "manifest.json").write_bytes(document)
        (folder / "manifest.sha256").write_bytes(hash_line(document))
        with pytest.raises(BackupRefused, match="format 2; this build reads format 1"):
            check(folder)


def _altered(folder: Path, old: bytes, new: bytes) -> Path:
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(old, new))
    return file


class TestATargetThatIsNotEmpty:
    """Refused, and left as it is."""

    async def test_records_rows_or_objects(self, taken: Path, fresh: Fresh) -> None:
        target = fresh("used")
        await initialise(target)
        store = ObjectStore(target.store.url)
        await store.put("datasets/other", b"x")
        with pytest.raises(BackupRefused, match="holds datasets/other already"):
            await restore(target, taken)
        await store.delete("datasets/other")
        await store.close()
        async with Log.of(target) as log:
            await log.write(one_job("team-1"))
            with pytest.raises(BackupRefused, match="events holds records already"):
                await restore(target, taken)
            await project(log)
            with pytest.raises(BackupRefused, match=r"table log\.\w+ holds rows already"):
                await restore(target, taken)
            await check_everything(log)

    async def test_services_at_work(self, taken: Path, fresh: Fresh) -> None:
        target = fresh("working")
        await initialise(target)
        url = target.database.url.get_secret_value()
        connection = await asyncpg.connect(url, server_settings={"application_name": "ravand-projector-locks"})
        try:
            with pytest.raises(BackupRefused, match=r"services work on this database \(projector-locks\)"):
                await restore(target, taken)
        finally:
            await connection.close()
        await restore(target, taken)


class _Killed(Exception):
    """Stands for the end of the process at that point: what was written before it is there, and nothing follows."""


@pytest.mark.parametrize("after", ["begin", "put_objects", "fill_tables", "half of the log", "write_log"])
async def test_an_interrupted_restore_starts_no_service_and_is_gone_on_with(
    source: Settings, taken: Path, fresh: Fresh, after: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = fresh("begun")
    with monkeypatch.context() as patched:
        if after == "half of the log":
            sound = LogRestore._acknowledged
            left = 4

            async def until_killed(self: Any, *arguments: Any) -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise _Killed
                await sound(self, *arguments)

            patched.setattr(LogRestore, "_acknowledged", until_killed)
        else:
            step = getattr(restoring._Restoring, after)

            async def then_killed(self: Any, *arguments: Any) -> None:
                await step(self, *arguments)
                raise _Killed

            patched.setattr(restoring._Restoring, after, then_killed)
        with pytest.raises(_Killed):
            await restore(target, taken)
    with pytest.raises(WrongTopics, match="waits for a restore to be finished"):
        await check_topics(target.kafka)
    await restore(target, taken)
    assert (await held(target)).log == (await held(source)).log
    await check_topics(target.kafka)


async def test_what_was_begun_from_one_backup_is_not_gone_on_with_from_another(
    source: Settings, taken: Path, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = fresh("other")
    await initialise(other)
    async with Log.of(other) as log:
        await log.write(one_job("team-1"))
        await project(log)
    await take(other, tmp_path / "other")
    target = fresh("begun")

    async def killed(self: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(restoring._Restoring, "write_log", killed)
        with pytest.raises(_Killed):
            await restore(target, tmp_path / "other")
    with pytest.raises(BackupRefused, match="of another backup already"):
        await restore(target, taken)


async def test_an_object_that_was_put_there_after_a_restore_was_begun_is_never_overwritten(
    taken: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fresh("begun")

    async def killed(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(restoring._Restoring, "put_objects", killed)
        with pytest.raises(_Killed):
            await restore(target, taken)
    store = ObjectStore(target.store.url)
    await store.put("datasets/1", b"of somebody else")
    with pytest.raises(CommandError, match="the object store holds other bytes as datasets/1") as raised:
        await asyncio.to_thread(_run, restore(target, taken), "The backup was not restored", "Go on.")
    assert raised.value.what_to_do == "Go on."
    assert await store.get("datasets/1") == b"of somebody else"
    await store.close()


def test_a_file_of_a_backup_that_may_not_be_read_is_told_from_an_altered_one(taken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(taken, folder)
    (folder / "objects.jsonl").chmod(0)
    with pytest.raises(CommandError, match=r"The backup could not be read: .*Permission denied.*objects\.jsonl"):
        powerless(lambda: _checked(lambda: check(folder)))
