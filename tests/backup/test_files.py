"""The files of a backup: one that cannot be written leaves nothing, and one that cannot be read is refused by name."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.settings import Settings
from backup import log_copy, record_file
from backup.check import objects
from backup.files import hashed_file
from backup.log_copy import _LogSide
from backup.manifest import MANIFEST, MANIFEST_HASH, OBJECTS, BackupRefused, hash_line, read
from backup.writing import unfinished
from projections.kafka_clients import PartitionReader
from schemas.topics import EVENTS
from tests.projections.platform import Log
from tests.projections.records import Written


@pytest.fixture
def _no_file_beyond_a_page() -> Iterator[None]:
    """The kernel refuses to write further, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_no_file_beyond_a_page")
def test_a_file_that_cannot_be_written_leaves_no_backup_and_no_open_file(tmp_path: Path) -> None:
    opened = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="File too large"), unfinished(tmp_path / "backup") as into:  # noqa: PT012, SIM117
        with hashed_file(into.folder, "log/00.records") as file:
            for _ in range(3):
                file.write(bytes(1 << 20))
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/proc/self/fd").iterdir()) <= opened


def test_a_second_backup_into_the_same_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with unfinished(tmp_path / "backup") as first:
        (first.folder / "begun").touch()
        with (
            pytest.raises(BackupRefused, match=r"another backup into .* is being made"),
            unfinished(tmp_path / "backup"),
        ):
            pass
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["begun"]


def _no_file(folder: Path) -> None:
    (folder / MANIFEST).mkdir()


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"format": 1}')
    (folder / MANIFEST_HASH).write_bytes(hash_line(b'{"format": 1}'))


@pytest.mark.parametrize(
    ("make", "said"),
    [(_no_file, "cannot be read: Is a directory"), (_no_manifest, "manifest.json cannot be read: .*missing")],
    ids=["a folder", "whole, and no manifest"],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path)
    with pytest.raises(BackupRefused, match=said):
        read(tmp_path)


def test_a_list_of_objects_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / OBJECTS).write_bytes(b'{"key": "datasets/1"')
    with pytest.raises(BackupRefused, match=r"objects\.jsonl cannot be read"):
        list(objects(tmp_path))


def test_a_record_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "00.records"
    file.write_bytes(record_file._length.pack(3) + b"\xc1\xc1\xc1")
    with pytest.raises(BackupRefused, match=r"00\.records holds what is no record"):
        list(record_file.read(file))


async def test_a_broker_that_does_not_hand_out_its_records_ends_the_backup(
    log: Log, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_copy, "_SILENT_SECONDS", 0.1)
    await log.write([Written(b"team", b"value", (), 3)])
    reader = PartitionReader(settings.kafka, EVENTS, 3)
    await reader.start()
    reader._consumer.pause(reader.at)  # As if no answer came.
    with pytest.raises(BackupRefused, match="partition 3: the broker does not hand out its records"):
        await _LogSide(reader, 1).begin()
    await reader.close()
