"""Measurements of a running attempt: step metrics, log lines, resource samples. Never folded, kept 30 days."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from domain.events import Epoch, Id, MetricName, Natural, Ordinal
from schemas.readable import reader


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """One record of `ravand.telemetry`, keyed by job id."""

    workspace: Id
    job_id: Id
    attempt: Ordinal
    sequence: Natural
    """Rises by one within an attempt: a record delivered twice is known by it."""
    at: Natural
    """Milliseconds since 1970 by the worker's clock."""


class StepMetrics(Telemetry, frozen=True, kw_only=True, tag="step_metrics"):
    """Metrics of a step that logs."""

    epoch: Epoch
    step: Natural
    metrics: Mapping[MetricName, float | None]
    """None where the number was not finite: JSON has none of those, and a loss that diverges is worth seeing."""


class LogLines(Telemetry, frozen=True, kw_only=True, tag="log_lines"):
    """Lines that the training function wrote, in order; `stream` is stdout, stderr or log."""

    lines: tuple[tuple[str, str], ...]
    """(stream, text)"""


class ResourceSample(Telemetry, frozen=True, kw_only=True, tag="resource_sample"):
    """What the training child uses."""

    cpu_percent: float
    memory_bytes: Natural
    gpu_percent: float | None = None
    gpu_memory_bytes: Natural | None = None


AnyTelemetry = StepMetrics | LogLines | ResourceSample
_decoder: msgspec.json.Decoder[AnyTelemetry] = msgspec.json.Decoder(AnyTelemetry)
_decode = reader(_decoder.decode)
_encode = msgspec.json.Encoder().encode
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def encode(measurement: AnyTelemetry) -> bytes:
    """The value as it goes to Kafka. NUL, which programs do print and no text column holds, becomes U+FFFD."""
    value = _encode(measurement)
    return _NUL.sub(rb"\1\\ufffd", value) if b"\\u0000" in value else value


def decode(value: bytes) -> AnyTelemetry:
    """Read one. Raises `msgspec.DecodeError` for what is none, or holds NUL."""
    if b"\\u0000" in value and _NUL.search(value):
        raise msgspec.DecodeError("NUL character in text")
    return _decode(value)
