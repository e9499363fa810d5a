"""What an object of the store is called, what is known of it, and what can go wrong."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from obstore.exceptions import BaseError

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LONGEST_KEY = 900
"""S3 takes 1024 bytes, and a store may have a prefix."""


class ObjectMissing(Exception):
    """The store answers, and has no object of that key."""


class ObjectExists(Exception):
    """The key holds other bytes already, and was to be written once."""


class StoreUnavailable(Exception):
    """The store cannot be reached, read or written: try again later. Says nothing about the object."""


class StoreFull(StoreUnavailable):
    """No space is left, or no quota."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of one object without reading it."""

    key: str
    size: int
    etag: str | None
    last_modified: datetime


def checked_key(key: str) -> str:
    """The key itself if every segment of it is safe as a file name; ValueError otherwise."""
    if len(key) > _LONGEST_KEY or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise ValueError(f"not a key of the object store: {key[:100]!r}")
    return key


@contextmanager
def read_errors(key: str) -> Iterator[None]:
    """Sort what goes wrong while reading an object: it is missing, or the store is away."""
    try:
        yield
    except FileNotFoundError as error:  # obstore raises the built-in one.
        raise ObjectMissing(key) from error
    except (BaseError, OSError) as error:
        raise _unavailable(error) from error


@contextmanager
def write_errors() -> Iterator[None]:
    """Sort what goes wrong while writing: nothing can be missing, so it is full or away."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("no space left in the object store")
    return StoreUnavailable(f"the object store does not answer: {type(error).__name__}")
