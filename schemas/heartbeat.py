"""What workers and supervisors say of themselves, every few seconds, keyed by their id."""

from __future__ import annotations

from typing import Literal

import msgspec

from domain.events import Id, Name, Natural, Ordinal
from schemas.readable import reader


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a worker is occupied with, claimed or training."""

    job_id: Id
    attempt: Ordinal


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's reading; None where the driver gives none."""

    name: str
    memory_used: Natural | None = None
    memory_total: Natural | None = None
    utilisation: float | None = None
    temperature: float | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """`idle` workers take part in choosing whom to claim; a `leaving` one claims nothing more."""

    id: Id
    kind: Literal["worker", "supervisor"]
    state: Literal["starting", "idle", "busy", "leaving", "gone"]
    sequence: Natural
    started_at: Natural
    recipes: tuple[tuple[Name, Ordinal], ...] = ()
    running: Running | None = None
    devices: tuple[Device, ...] = ()
    host: str = ""


_decode = reader(msgspec.json.Decoder(Heartbeat).decode)
_encode = msgspec.json.Encoder().encode


def encode(heartbeat: Heartbeat) -> bytes:
    """The value as it goes to Kafka."""
    return _encode(heartbeat)


def decode(value: bytes) -> Heartbeat:
    """Read a heartbeat. Raises `msgspec.DecodeError` for what is none."""
    return _decode(value)
