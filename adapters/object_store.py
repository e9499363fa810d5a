"""The object store: datasets, checkpoints and models, in a folder or in S3 and the like.

An object is complete or absent, and on the disk before a `put` returns. A key is made by our code from ids; text that
people typed never becomes part of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import obstore

from adapters.durable_files import CHUNK, sha256_of
from adapters.object_store_blocking import BlockingObjectStore, Mode, info_of
from adapters.objects import (
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    StoreFull,
    StoreUnavailable,
    checked_key,
    read_errors,
)

__all__ = [
    "ObjectExists",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "StoreFull",
    "StoreUnavailable",
    "checked_key",
    "sha256_of",
    "sha256_of_async",
]

T = TypeVar("T")


async def sha256_of_async(path: Path) -> str:
    """`sha256_of` in a thread."""
    return await asyncio.to_thread(sha256_of, path)


class ObjectStore(BlockingObjectStore):
    """The store for code on an event loop. Every method has its twin without a loop: `put_file_sync` and so on.

    Cancelling a `put` may still let it finish, as a whole: objects are complete or absent.
    """

    def __init__(self, url: str, config: Mapping[str, Any] | None = None) -> None:
        """As BlockingObjectStore; threads start when they are first needed."""
        super().__init__(url, config)
        # Threads of its own: a slow disk must not hold up what else uses the loop's default executor.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="objects")

    async def close(self) -> None:
        """Let the threads end; what they are doing is finished."""
        await asyncio.to_thread(self._threads.shutdown)

    async def init(self) -> None:
        """Create the folder and the marker by which the store is recognised later. May be repeated."""
        await self._run(self.init_sync)

    async def available(self) -> bool:
        """Whether the marker is readable: the bucket is reachable, or the folder is mounted, and it is ours."""
        return await self._run(self.available_sync)

    async def put(self, key: str, data: bytes, mode: Mode = "overwrite") -> None:
        """Store bytes. With `create`, an equal object is fine and a different one raises ObjectExists."""
        await self._run(lambda: self.put_sync(key, data, mode))

    async def put_file(self, key: str, path: Path, mode: Mode = "overwrite") -> None:
        """Store a file's bytes; the file stays. `mode` as in `put`."""
        await self._run(lambda: self.put_file_sync(key, path, mode))

    async def get(self, key: str) -> bytes:
        """All bytes of a small object."""
        return await self._run(lambda: self.get_sync(key))

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `end` (exclusive, or the end of the object), in pieces of about a megabyte."""
        info = await self.head(key)
        if info is None:
            raise ObjectMissing(key)
        stop = info.size if end is None else min(end, info.size)
        if not 0 <= start < stop:
            return
        with read_errors(key):
            result = await obstore.get_async(self._backend, key, options={"range": (start, stop)})
        chunks = aiter(result.stream(min_chunk_size=CHUNK))
        while True:
            with read_errors(key):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield bytes(chunk)

    async def head(self, key: str) -> ObjectInfo | None:
        """What is known of an object; None if the store answers and has none."""
        return await self._run(lambda: self.head_sync(key))

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        await self._run(lambda: self.delete_sync(key))

    async def download(self, key: str, to: Path) -> None:
        """Copy an object into a file, which is complete or absent. Its folder must exist."""
        await self._run(lambda: self.download_sync(key, to))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below a prefix of whole segments (`jobs/<job>`), in no order."""
        folder = checked_key(prefix.removesuffix("/")) if prefix else None
        await self._run(self._must_be_available)
        chunks = aiter(obstore.list(self._backend, folder, chunk_size=1000))
        while True:
            with read_errors(prefix):
                found = await anext(chunks, None)
            if found is None:
                return
            for meta in found:
                if not meta["path"].startswith("."):  # The marker, and files that are still being written.
                    yield info_of(meta)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
