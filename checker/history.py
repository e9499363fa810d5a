"""What a run leaves behind, as plain values: everything that the checker may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of `ravand.events` as a raw consumer read it."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    """Only of topics whose readers go by them."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client. `unknown` means that the client cannot tell whether it took effect."""

    operation: str
    actor: str
    workspace: str
    outcome: Literal["ok", "fail", "unknown"]
    event_id: str | None
    """The id that the request's event has or would have."""
    key: str | None = None
    """The Idempotency-Key."""
    code: str | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    status: int = 0
    began: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a socket as the client read it."""

    session: str
    """Joined over reconnections that resumed."""
    job_id: str
    message: dict[str, Any]
    workspace: str = ""
    """Set for a session that watches all jobs of a workspace; `job_id` is empty then."""


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a client's session, in order: the version it asked for at least, and the one it was answered from."""

    session: str
    workspace: str
    asked: int
    version: int | None
    """None when it was not answered."""
    status: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the object store: its bytes' hash as found, not as claimed."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the system on purpose."""

    at: float
    what: str
    target: str
    until: float = 0.0
    """When it was over: the process was thawed, the line was free again."""
    job: str | None = None
    """Whose training it hit."""


@dataclass(slots=True)
class History:
    """One whole run."""

    log: list[LogRecord]
    log_again: list[LogRecord]
    """A second read by an independent consumer."""
    calls: list[Call] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Dumps in one snapshot: jobs, epochs, checkpoints, datasets, models, journal, cursors, requests."""
    reads: list[Read] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """End offset of each partition after quiescence."""
    canaries: list[bytes] = field(default_factory=list)
    """Secrets that must be nowhere."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Logs, dumps and error bodies to search for them."""
    strays: set[str] = field(default_factory=set)
    """Ids of records that nobody of the system wrote."""
    facts: list[LogRecord] | None = None
    """The stream of facts, read whole."""
    table: list[LogRecord] | None = None
    """The table of open jobs, read whole."""
    partitions: int = 12
    quiesced: bool = True
