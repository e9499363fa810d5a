"""What the child that looks at a file is asked, and what it answers; one line of JSON each."""

from __future__ import annotations

import msgspec

from adapters.dataset_files.limits import Limits
from schemas.dataset_profile import DatasetProfile

READY = b"ready\n"


class Request(msgspec.Struct, frozen=True):
    """Which file to look at, and for how long."""

    path: str
    filename: str
    limits: Limits
    seconds: int


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A profile, or what is wrong with the file; `code` is None if it is too large.

    `errno` says instead that nothing is known to be wrong with it: there was no space to unpack it.
    """

    profile: DatasetProfile | None = None
    code: str | None = None
    message: str = ""
    row: int | None = None
    byte: int | None = None
    errno: int | None = None
