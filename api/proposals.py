"""Proposals: what people ask for goes to the log, and the log's order decides.

The same request under the same Idempotency-Key is one request, however often and wherever it is sent: its record has the
same id, the first occurrence decides, and everybody is told what came of that. What the log did not acknowledge in time may
or may not be in it, so the answer says that, and names the key with which to find out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog
import uuid_utils

from adapters.kafka import Appender, OutcomeUnknown, topic_name
from adapters.objects import StoreUnavailable
from adapters.postgres import is_outage
from adapters.settings import Settings
from api.access import Caller
from api.errors import Problem, invalid, malformed, too_large, unavailable
from api.verdicts import Verdict, Verdicts
from domain.events import Event
from schemas import envelope
from schemas.topics import EVENTS

log = structlog.get_logger("api")

KEY_HEADER = "Idempotency-Key"
SOURCE = "urn:ravand:api"
_NAMESPACE = uuid.UUID("5f0c7c1e-63b5-5d0a-9b53-8d6f0a1e7f11")
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_OWN_KEY = re.compile(r"ravand-([0-9a-f-]{36})-([0-9a-f]{32})")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Gate(Protocol):
    """Whether the log can be written to at all, as far as is known."""

    async def check(self) -> None:
        """Raise 503 `log_unavailable` if it was found to be away and still is."""

    def suspect(self) -> None:
        """An append got no acknowledgement: look before the next one."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request to change something: who asks, under which id, and the hash of what exactly."""

    caller: Caller
    operation: str
    id: str
    derive_key: Callable[[], str]
    """The key with which the request can be sent again: the client's own, or one that stands for the id alone."""
    repeatable: bool
    """Whether the client chose the key, so that the id may have been used before."""
    hash: str
    traceparent: str | None

    @property
    def key(self) -> str:
        """See `derive_key`: only an answer that is no verdict names it."""
        return self.derive_key()


class Proposals:
    """Turns requests into records and waits for what becomes of them."""

    def __init__(self, settings: Settings, appender: Appender, verdicts: Verdicts, gate: Gate) -> None:
        self._topic = topic_name(settings.kafka, EVENTS)
        self._secret = settings.auth.secret.get_secret_value().encode()
        self._deadline = settings.api.verdict_deadline_seconds
        self._appender = appender
        self._verdicts = verdicts
        self._gate = gate

    def ask(self, caller: Caller, operation: str, headers: Mapping[str, str], body: Any) -> Ask:
        """A request under its id. `body` is whatever makes it this request and no other. Raises 422 for a bad key."""
        key = headers.get(KEY_HEADER.lower())
        if key is not None and not _KEY.fullmatch(key):
            raise invalid((KEY_HEADER, "A key has 1 to 255 printable ASCII characters."))
        traceparent = headers.get("traceparent")
        id = self._id_of(caller, operation, key) if key is not None else str(uuid_utils.uuid7())
        return Ask(
            caller=caller,
            operation=operation,
            id=id,
            derive_key=partial(self._own_key, caller, operation, id) if key is None else lambda: key,
            repeatable=key is not None,
            hash=hashlib.sha256(msgspec.json.encode([operation, body], order="deterministic")).hexdigest(),
            traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
        )

    async def earlier(self, ask: Ask) -> Verdict | None:
        """What came of the request when it was made before; None if it was not. Raises 422 `key_reused`."""
        if not ask.repeatable:
            return None
        verdict = await self._verdicts.earlier(ask.caller.workspace, ask.id)
        return None if verdict is None else _same(ask, verdict)

    async def append(self, ask: Ask, subject: str, event: Event) -> Verdict:
        """Put the event on the log and answer the verdict on the request's first occurrence.

        Raises `Pending` when it is on the log and not judged in time, 503 `outcome_unknown` when nobody knows whether it is,
        503 `log_unavailable` when it surely is not, 413, and 422 `key_reused`.
        """
        workspace = ask.caller.workspace
        record = envelope.record(
            event,
            id=ask.id,
            source=SOURCE,
            subject=subject,
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            workspace=workspace,
            actor=ask.caller.user,
            traceparent=ask.traceparent,
            requesthash=ask.hash,
        )
        try:
            value = envelope.encode(record)
        except envelope.RecordTooLarge:
            raise too_large(
                f"The request makes a record of more than {envelope.MAX_RECORD_BYTES} bytes.", "record_too_large"
            ) from None
        except envelope.UnwritableRecord as error:
            raise malformed(f"The request cannot be written down: {error}.") from None
        await self._gate.check()
        with self._verdicts.expected(workspace, ask.id) as verdict:
            try:
                await self._appender.append(
                    self._topic, key=workspace.encode(), value=value, headers=envelope.headers(record)
                )
            except OutcomeUnknown as error:
                self._gate.suspect()
                # It may have been judged all the same: the acknowledgement alone was lost.
                if not verdict.done():
                    raise _unknown(ask) from error
            try:
                async with asyncio.timeout(self._deadline):
                    return _same(ask, await asyncio.shield(verdict))
            except TimeoutError:
                raise Pending(ask, subject) from None

    def _id_of(self, caller: Caller, operation: str, key: str) -> str:
        own = _OWN_KEY.fullmatch(key)
        if own and hmac.compare_digest(key, self._own_key(caller, operation, own[1])):
            return own[1]
        named = msgspec.json.encode([caller.workspace, caller.user, operation, key]).decode()
        return str(uuid.uuid5(_NAMESPACE, named))

    def _own_key(self, caller: Caller, operation: str, id: str) -> str:
        """The key of a request that came without one: signed, so that nobody names ids of his own with it."""
        named = msgspec.json.encode(["key", caller.workspace, caller.user, operation, id])
        return f"ravand-{id}-{hmac.new(self._secret, named, hashlib.sha256).hexdigest()[:32]}"


class Pending(Exception):
    """The request is safe on the log; what it comes to is not known yet."""

    def __init__(self, ask: Ask, subject: str) -> None:
        super().__init__(ask.id)
        self.ask = ask
        self.subject = subject


@contextmanager
def told_of(ask: Ask, subject: str) -> Iterator[None]:
    """Around what only tells of a request that is on the log. An outage there must not be answered as if nothing had been
    done: it becomes `Pending`, which says that the request is safe and where to ask."""
    try:
        yield
    except Exception as error:
        if not (is_outage(error) or isinstance(error, StoreUnavailable)):
            raise
        log.info("the outcome cannot be told yet", id=ask.id, operation=ask.operation, reason=type(error).__name__)
        raise Pending(ask, subject) from error


def _same(ask: Ask, verdict: Verdict) -> Verdict:
    if verdict.requesthash != ask.hash:
        raise Problem(
            422, "key_reused", "This Idempotency-Key was used for another request. Nothing was changed; use a new key."
        )
    return verdict


def _unknown(ask: Ask) -> Problem:
    log.warning("outcome unknown", id=ask.id, operation=ask.operation, workspace=ask.caller.workspace)
    problem = unavailable(
        "outcome_unknown",
        "The log did not acknowledge in time, so the request may or may not take effect. Send it again with the same"
        f" {KEY_HEADER}: it then takes effect once, and the answer says what came of it.",
        retry_after=2,
        key=ask.key,
    )
    problem.headers = {**(problem.headers or {}), KEY_HEADER: ask.key}
    return problem
