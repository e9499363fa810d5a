"""The object store keeps an object whole or not at all, and tells a missing object from a store that is away."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters import durable_files
from adapters.object_store import (
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    StoreFull,
    StoreUnavailable,
    sha256_of,
    sha256_of_async,
)

KEY = "datasets/0197f0aa/v1.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, folder: Path) -> ObjectStore:
    """Both branches of the code: a folder, and what obstore does itself (as S3 would)."""
    made = ObjectStore(folder.as_uri() if request.param == "file" else "memory:///")
    made.init_sync()
    return made


@pytest.fixture
def local(folder: Path) -> ObjectStore:
    made = ObjectStore(folder.as_uri())
    made.init_sync()
    return made


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestObjects:
    def test_what_was_put_is_read_back(self, store: ObjectStore) -> None:
        async def scenario() -> None:
            await store.put(KEY, b"first")
            await store.put(KEY, b"second")
            assert await store.get(KEY) == b"second"
            info = await store.head(KEY)
            assert info is not None
            assert (info.key, info.size) == (KEY, 6)
            await store.close()

        asyncio.run(scenario())

    def test_a_file_goes_in_and_out(self, store: ObjectStore, tmp_path: Path) -> None:
        source, copy = tmp_path / "in", tmp_path / "out"
        source.write_bytes(os.urandom(3_000_001))
        store.put_file_sync(KEY, source)
        store.download_sync(KEY, copy)
        assert copy.read_bytes() == source.read_bytes()

    @pytest.mark.parametrize(
        ("start", "end"), [(0, None), (10, 20), (2_000_000, None), (5, 10**9), (10**9, None), (3, 3)]
    )
    def test_a_stream_is_the_slice(self, store: ObjectStore, start: int, end: int | None) -> None:
        data = os.urandom(2_500_000)

        async def scenario() -> bytes:
            await store.put(KEY, data)
            return b"".join([chunk async for chunk in store.stream(KEY, start, end)])

        assert asyncio.run(scenario()) == data[start:end]

    def test_a_list_has_the_objects_below_and_nothing_else(self, store: ObjectStore) -> None:
        async def scenario() -> set[str]:
            for key in ("jobs/a/1", "jobs/a/2/x", "jobs/ab/1"):
                await store.put(key, b"")
            assert {info.key async for info in store.list()} == {"jobs/a/1", "jobs/a/2/x", "jobs/ab/1"}
            assert {info.key async for info in store.list("nothing")} == set()
            return {info.key async for info in store.list("jobs/a/")}

        assert asyncio.run(scenario()) == {"jobs/a/1", "jobs/a/2/x"}

    def test_deleting_twice_is_fine(self, store: ObjectStore) -> None:
        store.put_sync(KEY, b"x")
        store.delete_sync(KEY)
        store.delete_sync(KEY)
        assert store.head_sync(KEY) is None

    def test_only_a_folder_has_paths(self, local: ObjectStore) -> None:
        local.put_sync(KEY, b"x")
        path = local.local_path(KEY)
        assert path is not None
        assert path.read_bytes() == b"x"
        assert ObjectStore("memory:///").local_path(KEY) is None


class TestWrittenOnce:
    def test_the_same_bytes_again_are_fine(self, store: ObjectStore) -> None:
        store.put_sync(KEY, b"same", mode="create")
        store.put_sync(KEY, b"same", mode="create")

    @pytest.mark.parametrize("other", [b"else", b"longer than before", b""])
    def test_other_bytes_are_refused_and_the_first_stay(self, store: ObjectStore, other: bytes) -> None:
        store.put_sync(KEY, b"same", mode="create")
        with pytest.raises(ObjectExists):
            store.put_sync(KEY, other, mode="create")
        assert store.get_sync(KEY) == b"same"

    def test_large_objects_too(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("adapters.object_store_blocking._SINGLE_PUT", 2)
        self.test_the_same_bytes_again_are_fine(store)
        with pytest.raises(ObjectExists):
            store.put_sync(KEY, b"else", mode="create")


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        ["", "/", "/etc/passwd", "a/../b", "..", "a//b", "a/", "./a", ".tmp/x", ".ravand-store", "a\\b", "a\0b", "a b",
         "a%2e", "a#1", "a?", "file:", "یک", "a\n", "a" * 201, "a/" * 500 + "a"],
    )  # fmt: skip
    def test_what_is_not_a_key_is_refused_before_anything_happens(self, local: ObjectStore, key: str) -> None:
        before = names(local.root or Path())
        for act in (local.get_sync, local.head_sync, local.delete_sync, local.local_path):
            with pytest.raises(ValueError, match="not a key"):
                act(key)
        with pytest.raises(ValueError, match="not a key"):
            local.put_sync(key, b"x")
        assert names(local.root or Path()) == before


class TestMissingOrAway:
    def test_an_object_can_be_missing(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissing):
            store.get_sync(KEY)
        with pytest.raises(ObjectMissing):
            store.download_sync(KEY, tmp_path / "out")
        assert store.head_sync(KEY) is None
        assert not (tmp_path / "out").exists()

    def test_a_store_without_its_marker_is_away(self, local: ObjectStore, folder: Path, tmp_path: Path) -> None:
        local.put_sync(KEY, b"x")
        folder.rename(tmp_path / "unmounted")
        assert not local.available_sync()
        self.every_call_says_so(local, tmp_path)
        folder.mkdir()  # The empty mount point: still not our store, and it must stay empty.
        self.every_call_says_so(local, tmp_path)
        assert names(folder) == set()
        folder.rmdir()
        (tmp_path / "unmounted").rename(folder)
        assert local.get_sync(KEY) == b"x"

    @staticmethod
    def every_call_says_so(store: ObjectStore, tmp_path: Path) -> None:
        async def listing() -> None:
            async for _ in store.list():
                pass

        acts: list[Callable[[], object]] = [
            lambda: store.get_sync(KEY),
            lambda: store.head_sync(KEY),
            lambda: store.delete_sync(KEY),
            lambda: store.put_sync(KEY, b"y"),
            lambda: store.download_sync(KEY, tmp_path / "out"),
            lambda: asyncio.run(listing()),
        ]
        for act in acts:
            with pytest.raises(StoreUnavailable):
                act()

    def test_an_unreachable_bucket_is_away(self) -> None:
        store = ObjectStore(
            "s3://bucket/prefix",
            {"endpoint": "https://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b", "region": "r"},
        )
        store.patience = {"retry_config": {"max_retries": 0}}
        assert not store.available_sync()
        with pytest.raises(StoreUnavailable):
            store.put_sync(KEY, b"x")


class TestDurability:
    def test_a_full_disk_leaves_nothing(
        self, local: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local.put_sync(KEY, b"old")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreFull):
            local.put_sync(KEY, b"new")
        with pytest.raises(StoreFull):
            local.put_sync("other", b"new")
        assert names(folder) == {".ravand-store", KEY}
        assert local.get_sync(KEY) == b"old"

    def test_file_and_every_new_folder_are_flushed_and_the_name_comes_last(
        self, local: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[str] = []
        real = os.fsync

        def note(descriptor: int) -> None:
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            name = Path(f"/proc/self/fd/{descriptor}").readlink()
            flushed.append(os.path.relpath(name, folder) if is_folder else f"file, named: {(folder / 'a/b').exists()}")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        local.put_sync("a/b", b"x")
        assert flushed == ["file, named: False", ".", "a"]

    def test_files_are_private(self, local: ObjectStore, folder: Path) -> None:
        local.put_sync(KEY, b"x")
        modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
        assert modes <= {0o700, 0o600}

    def test_only_old_temporary_files_are_removed(self, local: ObjectStore, folder: Path) -> None:
        for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
            path = folder / ".tmp" / name
            path.touch()
            os.utime(path, times=(path.stat().st_mtime - age,) * 2)
        local.init_sync()
        assert names(folder) == {".ravand-store", ".tmp/young"}

    def test_a_temporary_file_that_is_gone_before_it_is_looked_at_keeps_no_other(
        self, local: ObjectStore, folder: Path
    ) -> None:
        (folder / ".tmp" / "gone").symlink_to(folder / "nowhere")  # Listed, and not there.
        old = folder / ".tmp" / "old"
        old.touch()
        os.utime(old, times=(0, 0))
        local.init_sync()
        assert not old.exists()


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(durable_files.CHUNK + 7))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(path) == expected
    assert asyncio.run(sha256_of_async(path)) == expected


@pytest.mark.parametrize("url", ["file://host/folder", "file:folder"])
def test_a_file_url_must_be_absolute(url: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        ObjectStore(url)
