"""What workers and supervisors say of themselves, every few seconds, keyed by their id."""

from __future__ import annotations

from typing import Literal

import msgspec


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a worker is occupied with, claimed or training."""

    job_id: str
    attempt: int


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's reading; None where the driver gives none."""

    name: str
    memory_used: int | None = None
    memory_total: int | None = None
    utilisation: float | None = None
    temperature: float | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """`idle` workers take part in choosing whom to claim; a `leaving` one claims nothing more."""

    id: str
    kind: Literal["worker", "supervisor"]
    state: Literal["starting", "idle", "busy", "leaving", "gone"]
    sequence: int
    started_at: int
    recipes: tuple[tuple[str, int], ...] = ()
    running: Running | None = None
    devices: tuple[Device, ...] = ()
    host: str = ""


_decoder = msgspec.json.Decoder(Heartbeat)
_encode = msgspec.json.Encoder().encode


def encode(heartbeat: Heartbeat) -> bytes:
    """The value as it goes to Kafka."""
    return _encode(heartbeat)


def decode(value: bytes) -> Heartbeat:
    """Read a heartbeat. Raises `msgspec.DecodeError` for what is none."""
    return _decoder.decode(value)
