"""What an attempt works with, and the training child as it sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters.object_store import ObjectStore
from workers.child_messages import ToChild, ToWorker
from workers.child_process import Ended
from workers.devices import Devices
from workers.steady_producer import SteadyProducer
from workers.trainer_note import TrainerNote


class Child(Protocol):
    """A training child; `workers.warm_child` has the real one."""

    pid: int

    async def send(self, message: ToChild) -> None:
        """Say something to it."""

    async def receive(self) -> ToWorker | None:
        """What it says; None once it is gone."""

    def kill(self) -> None:
        """End it at once."""

    async def wait(self) -> Ended:
        """How it ended."""

    async def close(self) -> None:
        """Drop the connection."""


class Children(Protocol):
    """Where children come from."""

    async def start(self) -> None:
        """Begin to have some."""

    async def until_waiting(self) -> None:
        """Return once one waits."""

    async def take(self) -> Child:
        """One that waits for its job."""

    async def close(self) -> None:
        """End them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The worker's own, the same for all its attempts."""

    worker: str
    children: Children
    log: SteadyProducer
    events_topic: str
    measurements: SteadyProducer
    telemetry_topic: str
    store: ObjectStore
    store_url: str
    devices: Devices
    note: TrainerNote
    state: Path | None
    device: str | None
    threads: int
    lease_seconds: float
    grace_seconds: float
