"""How much of a file we are willing to look at."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one dataset file. They hold for what is really read, never for what a header claims."""

    file_bytes: int = 256 * MIB
    unpacked_bytes: int = 1024 * MIB
    """What an archive, a gzip stream or the arrays of an NPZ may unpack to."""
    ratio: int = 100
    """How many times its own size an archive may unpack to."""
    ratio_floor: int = MIB
    """Below this many unpacked bytes the ratio is not looked at: a tiny regular file packs very well."""
    columns: int = 2_000
    field_bytes: int = MIB
    table_bytes: int = 1024 * MIB
    """What a table may take in memory once its columns have types."""
    members: int = 200_000
    """How many files an archive may hold."""
    image_pixels: int = 40_000_000
    total_pixels: int = 4_000_000_000
    memory_bytes: int = 4096 * MIB
    """The address space of the child that profiles; most of it is reserved by allocators and never touched."""


DEFAULT_LIMITS = Limits()
