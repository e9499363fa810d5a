"""Heads of the hash chain, kept where whoever could rewrite the log and the journal cannot reach.

A head is (partition, next offset, hash of everything before it). An *anchor* is a file of heads that somebody carries away:
what it covers cannot be rewritten unseen, however much of the installation an attacker owns. A *seal* is the same in the
database, signed with a key that is not in it: it needs no carrying away, and protects as far as the key is kept apart.
The signature is HMAC-SHA256 over the log's id and the head, each part with its length.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from struct import Struct
from typing import Any

import msgspec

KEY_FILE = "audit.key"
_FORMAT = 1
_number = Struct(">q").pack
_length = Struct(">I").pack


class Head(msgspec.Struct, frozen=True):
    """The chain of a partition before the offset `next_offset`."""

    partition: int
    next_offset: int
    chain: bytes


class Anchor(msgspec.Struct, frozen=True):
    """Heads of one log at one moment; `signed` tells whether the file carried a signature of the given key."""

    log_id: str
    made_at: int
    heads: tuple[Head, ...]
    signed: bool | None = None
    """None: there is no key to tell with, or no signature."""


class AnchorUnusable(ValueError):
    """An anchor file that cannot be read, or whose signature is not that of its contents."""


class KeyUnusable(ValueError):
    """A file that holds no key, or one that others may read."""


def read_key(file: Path) -> bytes:
    """The key in a file: 32 bytes or more, as hexadecimal digits. Raises `KeyUnusable` and `OSError`."""
    try:
        key = bytes.fromhex(file.read_text().strip())
    except (ValueError, UnicodeDecodeError):
        raise KeyUnusable(f"{file} holds no key: hexadecimal digits are expected") from None
    if len(key) < 32:
        raise KeyUnusable(f"the key in {file} has {len(key)} bytes; at least 32 are needed")
    if file.stat().st_mode & 0o077:
        raise KeyUnusable(f"{file} can be read by others; `chmod 600` it, and think of drawing another key")
    return key


def make_key(file: Path) -> bytes:
    """Draw a key into a new private file. Raises `FileExistsError` and `OSError`."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return read_key(file)


def sign(key: bytes, log_id: str, at: int, heads: Iterable[Head]) -> bytes:
    """The signature over heads of one moment."""
    signed = hmac.new(key, digestmod=hashlib.sha256)
    for part in (b"ravand.heads.1", log_id.encode(), _number(at)):
        signed.update(_length(len(part)) + part)
    for head in sorted(heads, key=lambda h: (h.partition, h.next_offset)):
        signed.update(_number(head.partition) + _number(head.next_offset) + _length(len(head.chain)) + head.chain)
    return signed.digest()


async def heads_of(connection: Any) -> tuple[str, list[Head]]:
    """The log's id and the present heads, of one moment."""
    rows = await connection.fetch(
        "SELECT h.log_id, c.partition, c.next_offset, c.chain FROM log.history h"
        " LEFT JOIN log.cursors c ON c.next_offset > 0 ORDER BY c.partition"
    )
    heads = [Head(row["partition"], row["next_offset"], row["chain"]) for row in rows if row["partition"] is not None]
    return rows[0]["log_id"], heads


async def store_seals(connection: Any, key: bytes, log_id: str, at: int, heads: Iterable[Head]) -> int:
    """Sign each head and keep it in the database; how many were new."""
    kept = list(heads)
    rows = [(h.partition, h.next_offset, log_id, h.chain, at, sign(key, log_id, at, [h])) for h in kept]
    if not rows:
        return 0
    made = await connection.fetch(
        "INSERT INTO audit.seals (partition, next_offset, log_id, chain, at, signature)"
        " SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[], $6::bytea[])"
        " ON CONFLICT DO NOTHING RETURNING 1",
        *zip(*rows, strict=True),
    )
    return len(made)


def write_anchor(file: Path, log_id: str, at: int, heads: list[Head], key: bytes | None) -> None:
    """Write an anchor file, whole or not at all. Raises `OSError`."""
    document: dict[str, Any] = {
        "format": _FORMAT,
        "log_id": log_id,
        "made_at": at,
        "heads": [{"partition": h.partition, "next_offset": h.next_offset, "chain": h.chain.hex()} for h in heads],
    }
    if key is not None:
        document["signature"] = "hmac-sha256:" + sign(key, log_id, at, heads).hex()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w") as stream:
        stream.write(json.dumps(document, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_anchor(file: Path, key: bytes | None) -> Anchor:
    """The anchor in a file. Raises `AnchorUnusable` and `OSError`."""
    try:
        document = json.loads(file.read_text())
        if document["format"] != _FORMAT:
            raise AnchorUnusable(f"{file} is an anchor of format {document['format']}; this build reads {_FORMAT}")
        heads = tuple(
            Head(int(h["partition"]), int(h["next_offset"]), bytes.fromhex(h["chain"])) for h in document["heads"]
        )
        log_id, at, signature = str(document["log_id"]), int(document["made_at"]), document.get("signature")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        if isinstance(error, AnchorUnusable):
            raise
        raise AnchorUnusable(f"{file} is no anchor: {type(error).__name__}") from None
    if any(len(head.chain) != 32 for head in heads):
        raise AnchorUnusable(f"{file} is no anchor: a hash has 32 bytes")
    signed: bool | None = None
    if key is not None and signature is not None:
        right = "hmac-sha256:" + sign(key, log_id, at, heads).hex()
        if not hmac.compare_digest(right, str(signature)):
            raise AnchorUnusable(f"the signature in {file} is not that of its contents, or of another key")
        signed = True
    return Anchor(log_id, at, heads, signed)


def valid_seals(rows: Iterable[Mapping[str, Any]], key: bytes) -> tuple[list[Head], list[Head]]:
    """The stored seals whose signature is right, and those whose is not."""
    right: list[Head] = []
    wrong: list[Head] = []
    for row in rows:
        head = Head(row["partition"], row["next_offset"], row["chain"])
        made = sign(key, row["log_id"], row["at"], [head])
        (right if hmac.compare_digest(made, row["signature"]) else wrong).append(head)
    return right, wrong


def now_ms() -> int:
    """Milliseconds since 1970 by this machine's clock: it only says when an anchor was made."""
    return int(time.time() * 1000)
