"""What clients say and what they are told: the messages of the socket.

`event` is the bare name of a record's type, `version` always the workspace's. Fields may join; none is ever taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from api.live.frames import text_frame
from schemas.envelope import PREFIX
from schemas.facts import Fact
from schemas.job_view import ModelRef

JobId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
LogId = Annotated[str, msgspec.Meta(max_length=128)]


# --- from the client ------------------------------------------------------------------------------------------------


class SubscribeJob(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe_job"):
    """Tell me of this job; with `since`, first what I missed: its versions above that one."""

    job_id: JobId
    since: Version | None = None
    log: LogId | None = None
    """The log that `since` counts in, from an earlier `subscribed`."""
    lines: bool = False
    """Whether the lines that the training writes are wanted too."""


class UnsubscribeJob(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe_job"):
    """No more of this job."""

    job_id: JobId


class SubscribeJobs(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe_jobs"):
    """Tell me of every job of the workspace."""

    since: Version | None = None
    log: LogId | None = None
    lines: bool = False


class UnsubscribeJobs(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe_jobs"):
    """No more of the workspace; subscriptions to single jobs stay."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    """Are you there? For clients that cannot send WebSocket pings (browsers)."""


Request = SubscribeJob | UnsubscribeJob | SubscribeJobs | UnsubscribeJobs | Ping
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class Malformed(ValueError):
    """The message is none of ours; the text says why."""


def read(text: str | bytes) -> Request:
    """One message of a client. Raises `Malformed`."""
    try:
        return _requests.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


# --- to the client --------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Members that hold their default are left out."""


class Subscribed(_Message, frozen=True, kw_only=True, tag="subscribed"):
    """The job as of `version` of the workspace in the log `log`; what follows is newer, or what was missed."""

    job_id: str
    job: msgspec.Raw
    version: int
    log: str


class SubscribedJobs(_Message, frozen=True, kw_only=True, tag="subscribed_jobs"):
    """From `version` on every job of the workspace is told."""

    version: int
    log: str


class JobUpdate(_Message, frozen=True, kw_only=True, tag="job_update"):
    """A record of the job took effect. `previous` is the version of the one before, 0 for the first."""

    job_id: str
    version: int
    previous: int
    status: str
    progress: float
    message: str
    event: str
    epoch: int
    epochs: int
    attempt: int
    at: int
    """The broker's time, in milliseconds since 1970."""
    loss: float | None = None
    metrics: Mapping[str, float | None] = {}
    model: ModelRef | None = None
    error: str | None = None
    eta_seconds: float | None = None


class Metrics(_Message, frozen=True, kw_only=True, tag="metrics"):
    """The newest measurements of a running attempt. They have no version: a later one replaces them, some are skipped."""

    job_id: str
    attempt: int
    at: int
    epoch: int | None = None
    step: int | None = None
    metrics: Mapping[str, float | None] = {}
    resources: Mapping[str, float | None] = {}


class Lines(_Message, frozen=True, kw_only=True, tag="lines"):
    """Lines that the training wrote, each with its stream; some are skipped for a slow client."""

    job_id: str
    attempt: int
    sequence: int
    lines: tuple[tuple[str, str], ...]


class Resync(_Message, frozen=True, kw_only=True, tag="resync"):
    """The gap cannot be filled: that subscription is over. Read the state anew and subscribe without `since`."""

    version: int
    log: str
    reason: str
    job_id: str | None = None


class Unsubscribed(_Message, frozen=True, kw_only=True, tag="unsubscribed"):
    """The last message about the job."""

    job_id: str


class UnsubscribedJobs(_Message, frozen=True, kw_only=True, tag="unsubscribed_jobs"):
    """The last message about jobs that are not subscribed to one by one."""


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`."""


class Error(_Message, frozen=True, kw_only=True, tag="error"):
    """The request was not done. `code` is stable; the socket stays open."""

    code: str
    message: str
    job_id: str | None = None


Message = (
    Subscribed | SubscribedJobs | JobUpdate | Metrics | Lines | Resync | Unsubscribed | UnsubscribedJobs | Pong | Error
)
_encode = msgspec.json.Encoder().encode


def frame(message: Message) -> bytes:
    """The message as it goes over the wire."""
    return text_frame(_encode(message))


def job_update(fact: Fact) -> bytes:
    """The frame that tells a fact about a job; empty for a fact about anything else."""
    job = fact.job
    if job is None:
        return b""
    return frame(
        JobUpdate(
            job_id=job.job_id,
            version=fact.version,
            previous=fact.previous,
            status=job.status,
            progress=job.progress,
            message=job.message,
            event=fact.type.removeprefix(PREFIX),
            epoch=job.epoch,
            epochs=job.epochs,
            attempt=job.attempt,
            at=fact.at,
            loss=job.loss,
            metrics=job.metrics,
            model=job.model,
            error=job.error,
            eta_seconds=job.eta_seconds,
        )
    )


def document(value: Any) -> msgspec.Raw:
    """A JSON document that somebody else made, to be embedded."""
    return msgspec.Raw(value if isinstance(value, bytes) else _encode(value))
