"""Files of a backup: private, hashed while they are written, and on the disk before they count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.durable_files import make_folders
from backup.manifest import StoredFile


class HashedFile:
    """A new file below `root`; `stored` once it has been closed."""

    def __init__(self, root: Path, path: str) -> None:
        """Create it. Raises `OSError`, and `FileExistsError` if there is one."""
        self.path = path
        file = root / path
        make_folders(file.parent, root)
        self._stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=1 << 20)
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.stored: StoredFile | None = None

    def write(self, data: bytes) -> None:
        """Append."""
        self._stream.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    async def take(self, data: bytes) -> None:
        """The same for whoever hands pieces to a coroutine."""
        self.write(data)

    def finish(self) -> StoredFile:
        """Flush it to the disk and close it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.stored = StoredFile(self.path, self._bytes, self._hash.hexdigest())
        return self.stored

    def abandon(self) -> None:
        """Close it as it is."""
        self._stream.close()


@contextmanager
def hashed_file(root: Path, path: str) -> Iterator[HashedFile]:
    """One that is finished when the block ends without an error."""
    file = HashedFile(root, path)
    try:
        yield file
    except BaseException:
        file.abandon()
        raise
    file.finish()
