"""The object store without an event loop: what a training child uses, and what `ObjectStore` runs in threads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from tempfile import gettempdir
from typing import IO, TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from adapters.durable_files import CHUNK, AlreadyThere, durable_file, remove_abandoned
from adapters.objects import (
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    StoreUnavailable,
    checked_key,
    read_errors,
    write_errors,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

Mode = Literal["overwrite", "create"]

_MARKER = ".ravand-store"  # Neither this nor the next can be a key: those never begin with a dot.
_TEMPORARY = ".tmp"
_SINGLE_PUT = 64 * CHUNK
"""A conditional put is one request whose body is held in memory; larger objects go up in parts."""

PATIENCE: dict[str, Any] = {
    # The default keeps trying for three minutes; our callers wait with a request or an attempt in their hands.
    "retry_config": {"max_retries": 4, "retry_timeout": timedelta(seconds=15)},
    # The timeout covers a whole body, and a checkpoint may be gigabytes.
    "client_options": {"connect_timeout": "5s", "timeout": "600s"},
}


class BlockingObjectStore:
    """One store, by URL: `file:///folder`, `s3://bucket/prefix`, and what else obstore knows.

    Methods fail with ObjectMissing, ObjectExists, StoreFull or StoreUnavailable, and ValueError for what is not a key.
    """

    def __init__(self, url: str, config: Mapping[str, Any] | None = None) -> None:
        """Name the store; nothing is read or written yet. `config` goes to obstore (endpoint, region, credentials)."""
        parts = urlsplit(url)
        self.root = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self.root is not None and (parts.netloc or not self.root.is_absolute()):
            raise ValueError(f"a file URL names an absolute folder of this machine: {url!r}")
        self._url = url
        self._config = dict(config or {})
        self.patience = PATIENCE
        self._made: Backend | None = None

    def init_sync(self) -> None:
        """Create the folder and the marker by which the store is recognised later. May be repeated."""
        with write_errors():
            if self.root is None:
                obstore.put(self._backend, _MARKER, b"ravand\n")
                return
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            remove_abandoned(self._temporary)
            with durable_file(self.root / _MARKER, self.root, self._temporary, replace=True) as file:
                file.write(b"ravand\n")

    def available_sync(self) -> bool:
        """Whether the marker is readable: the bucket is reachable, or the folder is mounted, and it is ours."""
        try:
            with read_errors(_MARKER):
                obstore.get_range(self._backend, _MARKER, start=0, length=1)
        except (ObjectMissing, StoreUnavailable):
            return False
        return True

    def staging(self) -> Path:
        """A folder for files that are to become objects; what a killed writer leaves there is removed a day later."""
        return Path(gettempdir()) if self.root is None else self._temporary

    def put_sync(self, key: str, data: bytes, mode: Mode = "overwrite") -> None:
        """Store bytes. With `create`, an equal object is fine and a different one raises ObjectExists."""
        self._put(checked_key(key), lambda: BytesIO(data), len(data), mode)

    def put_file_sync(self, key: str, path: Path, mode: Mode = "overwrite") -> None:
        """Store a file's bytes; the file stays. `mode` as in `put_sync`."""
        self._put(checked_key(key), lambda: path.open("rb"), path.stat().st_size, mode)

    def get_sync(self, key: str) -> bytes:
        """All bytes of a small object."""
        with self._reading(key):
            return bytes(obstore.get(self._backend, checked_key(key)).bytes())

    def head_sync(self, key: str) -> ObjectInfo | None:
        """What is known of an object; None if the store answers and has none."""
        try:
            with self._reading(key):
                return info_of(obstore.head(self._backend, checked_key(key)))
        except ObjectMissing:
            return None

    def delete_sync(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        try:
            with self._reading(key):
                obstore.delete(self._backend, checked_key(key))
        except ObjectMissing:
            return

    def download_sync(self, key: str, to: Path) -> None:
        """Copy an object into a file, which is complete or absent. Its folder must exist."""
        with self._reading(key):
            chunks = obstore.get(self._backend, checked_key(key)).stream(min_chunk_size=CHUNK)
        with write_errors(), durable_file(to, to.parent, to.parent, replace=True) as file:
            for chunk in chunks:
                file.write(chunk)

    def local_path(self, key: str) -> Path | None:
        """Where the object lies as a file, for readers that want one; None when the store is not a folder."""
        checked_key(key)
        return None if self.root is None else self.root / key

    @property
    def _backend(self) -> Backend:
        # Made when first needed: a folder that is not there yet must not keep a process from starting.
        if self._made is None:
            if self.root is not None:
                self._made = LocalStore(self.root)
            elif self._url.startswith("memory:"):
                self._made = from_url(self._url)
            else:
                self._made = from_url(self._url, config=cast("Any", self._config), **self.patience)
        return self._made

    @property
    def _temporary(self) -> Path:
        assert self.root is not None
        return self.root / _TEMPORARY

    def _put(self, key: str, body: Callable[[], IO[bytes]], size: int, mode: Mode) -> None:
        with body() as source, write_errors():
            try:
                if self.root is not None:
                    self._put_locally(key, source, mode)
                elif mode == "create" and size <= _SINGLE_PUT:
                    obstore.put(self._backend, key, source, mode="create")
                elif (
                    mode == "create" and self.head_sync(key) is not None
                ):  # Two writers may both pass: see _SINGLE_PUT.
                    raise AlreadyThere(key)
                else:
                    obstore.put(self._backend, key, source)
                return
            except (AlreadyThere, AlreadyExistsError):
                pass
        with body() as expected:
            if not self._holds(key, expected, size):
                raise ObjectExists(key)

    def _put_locally(self, key: str, source: IO[bytes], mode: Mode) -> None:
        assert self.root is not None
        self._must_be_available()  # Else we would fill the empty folder below a disk that is not mounted.
        with durable_file(self.root / key, self.root, self._temporary, replace=mode == "overwrite") as file:
            shutil.copyfileobj(source, file, CHUNK)

    def _holds(self, key: str, expected: IO[bytes], size: int) -> bool:
        with self._reading(key):
            found = obstore.get(self._backend, key)
            if found.meta["size"] != size:
                return False
            return all(expected.read(len(chunk)) == chunk for chunk in found.stream(min_chunk_size=CHUNK))

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """What looks missing is missing only if the store itself is there."""
        try:
            with read_errors(key):
                yield
        except ObjectMissing:
            self._must_be_available()
            raise

    def _must_be_available(self) -> None:
        if not self.available_sync():
            raise StoreUnavailable("the marker of the object store is not readable")


def info_of(meta: Any) -> ObjectInfo:
    """obstore's description of an object, as ours."""
    return ObjectInfo(key=meta["path"], size=meta["size"], etag=meta["e_tag"], last_modified=meta["last_modified"])
