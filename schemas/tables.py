"""The compacted topics that are tables: readers act on the state they see, not on the message that brought it."""

from __future__ import annotations

import msgspec

from domain.job import Job
from schemas.readable import reader


class OpenJob(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `ravand.jobs`, keyed by job id: a job that is not over. Its version stands in a header, on tombstones too."""

    workspace: str
    job: Job


_decode = reader(msgspec.json.Decoder(OpenJob).decode)
_encode = msgspec.json.Encoder().encode


def encode_open_job(row: OpenJob) -> bytes:
    """The row's value as it goes to Kafka."""
    return _encode(row)


def decode_open_job(value: bytes) -> OpenJob:
    """Read a row. Raises `msgspec.DecodeError` for what is none."""
    return _decode(value)
