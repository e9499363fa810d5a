"""Measurements of a running attempt: step metrics, log lines, resource samples. Never folded, kept 30 days."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """One record of `ravand.telemetry`, keyed by job id."""

    workspace: str
    job_id: str
    attempt: int
    sequence: int
    """Rises by one within an attempt: a record delivered twice is known by it."""
    at: int
    """Milliseconds since 1970 by the worker's clock."""


class StepMetrics(Telemetry, frozen=True, kw_only=True, tag="step_metrics"):
    """Metrics of a step that logs."""

    epoch: int
    step: int
    metrics: Mapping[str, float]


class LogLines(Telemetry, frozen=True, kw_only=True, tag="log_lines"):
    """Lines that the training function wrote, in order; `stream` is stdout, stderr or log."""

    lines: tuple[tuple[str, str], ...]
    """(stream, text)"""


class ResourceSample(Telemetry, frozen=True, kw_only=True, tag="resource_sample"):
    """What the training child uses."""

    cpu_percent: float
    memory_bytes: int
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None


AnyTelemetry = StepMetrics | LogLines | ResourceSample
_decoder: msgspec.json.Decoder[AnyTelemetry] = msgspec.json.Decoder(AnyTelemetry)
_encode = msgspec.json.Encoder().encode


def encode(measurement: AnyTelemetry) -> bytes:
    """The value as it goes to Kafka."""
    return _encode(measurement)


def decode(value: bytes) -> AnyTelemetry:
    """Read one. Raises `msgspec.DecodeError` for what is none."""
    return _decoder.decode(value)
