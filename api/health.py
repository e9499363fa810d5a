"""Whether this process lives, and whether it can do its work: cheap to ask, true within a second, green again by itself.

The same look at the log guards appends: after one that got no acknowledgement the next is made only if the broker answers,
so that an outage is answered at once instead of with a queue of requests that all wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import asyncpg
import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from fastapi import Request, Response

from adapters.kafka import consumer, topic_name
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from api import access
from api.answers import Answer, returns
from api.errors import unavailable
from api.routing import router as new_router
from api.services import services_of
from schemas.topics import EVENTS

log = structlog.get_logger("api")
router = new_router()

_FRESH_SECONDS = 0.5
"""A look this recent serves the next who asks."""
_PATIENCE_SECONDS = 2.0
_STUCK_SECONDS = 15.0
"""A projector that has records before it and does not move for this long is called stuck."""
_GATE_SECONDS = 1.0
_LOOK_SECONDS = 10.0
"""Of a look at the log, whoever still waits for it."""


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is ok or unavailable; each check is ok, or says what is wrong."""

    status: str
    checks: dict[str, str]


class LogProbe:
    """Asks the broker where the log ends. One consumer without an assignment, made again after a failure.

    Who loses patience leaves the look to go on, for whoever asks next: connecting takes longer than anybody waits on a busy
    machine, and a look that was begun anew each time would never come to its end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.kafka
        topic = topic_name(settings.kafka, EVENTS)
        self._partitions = [TopicPartition(topic, number) for number in range(EVENTS.partitions)]
        self._consumer: AIOKafkaConsumer | None = None
        self._looking: asyncio.Task[dict[int, int]] | None = None
        self._discarded: set[asyncio.Task[None]] = set()
        self.answered_at = float("-inf")
        """When the broker last did, by `time.monotonic`."""

    async def ends(self, seconds: float) -> dict[int, int]:
        """The end of each partition. Raises KafkaError, OSError or TimeoutError."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(_heard)
        async with asyncio.timeout(seconds):
            return await asyncio.shield(self._looking)

    async def _look(self) -> dict[int, int]:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                if self._consumer is None:
                    fresh = consumer(self._settings, request_timeout_ms=int(1000 * _PATIENCE_SECONDS))
                    self._consumer = fresh
                    await fresh.start()
                found = await self._consumer.end_offsets(self._partitions)
            self.answered_at = time.monotonic()
            return {partition.partition: end for partition, end in found.items()}
        except BaseException:
            failed, self._consumer = self._consumer, None
            if failed is not None:  # Without waiting for it: its broker may not answer.
                stopping = asyncio.create_task(failed.stop())
                self._discarded.add(stopping)
                stopping.add_done_callback(self._discarded.discard)
            raise

    async def close(self) -> None:
        """Let the connections go."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None
        if self._discarded:
            await asyncio.wait(self._discarded, timeout=_PATIENCE_SECONDS)


def _heard(look: asyncio.Task[dict[int, int]]) -> None:
    """Whoever asked may have gone; that it failed is no news to anybody else."""
    if not look.cancelled():
        look.exception()


class Gate:
    """Lets appends through while the log is believed to be there."""

    def __init__(self, probe: LogProbe) -> None:
        self._probe = probe
        self._suspected_at = float("-inf")

    def suspect(self) -> None:
        """An append got no acknowledgement in time."""
        self._suspected_at = time.monotonic()

    async def check(self) -> None:
        """Return if the log may be written to. Raises 503 `log_unavailable`: then nothing was appended."""
        if self._is_answered:
            return
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await self._probe.ends(_GATE_SECONDS)
        if not self._is_answered:
            raise unavailable(
                "log_unavailable", "The log does not answer. Nothing was changed; try again shortly.", retry_after=2
            )

    @property
    def _is_answered(self) -> bool:
        """Whether the broker has answered since the last suspicion, whoever asked it."""
        return self._probe.answered_at >= self._suspected_at


class Health:
    """The checks of this process."""

    def __init__(self, pool: asyncpg.Pool, probe: LogProbe, store: ObjectStore) -> None:
        self._pool = pool
        self._probe = probe
        self._store = store
        self._looked_at = -1.0
        self._found: dict[str, str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._moved_at = time.monotonic()
        self._cursors: dict[int, int] = {}

    async def checks(self) -> dict[str, str]:
        """Each part with `ok` or what is wrong with it. Asked by many at once, the parts are looked at once."""
        if time.monotonic() - self._looked_at > _FRESH_SECONDS:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)
        return dict(self._found)

    async def _look(self) -> None:
        ends: dict[int, int] = {}
        cursors: dict[int, int] = {}

        async def database() -> None:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                cursors.update(await self._pool.fetch("SELECT partition, next_offset FROM log.cursors"))

        async def of_log() -> None:
            ends.update(await self._probe.ends(_PATIENCE_SECONDS))

        async def store() -> None:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                if not await self._store.available():
                    raise OSError("its marker is not readable")

        parts: dict[str, Callable[[], Awaitable[None]]] = {"database": database, "log": of_log, "store": store}
        said = await asyncio.gather(*(_said(look) for look in parts.values()))
        found = dict(zip(parts, said, strict=True))
        if found["database"] == found["log"] == "ok":
            found["projector"] = self._projector(ends, cursors)
        self._tell(found)
        self._found, self._looked_at = found, time.monotonic()

    def _projector(self, ends: dict[int, int], cursors: dict[int, int]) -> str:
        """How far behind the log the read model is; a projector that is away delays verdicts and spoils nothing."""
        behind = sum(max(0, end - cursors.get(partition, 0)) for partition, end in ends.items())
        now = time.monotonic()
        if behind == 0 or cursors != self._cursors:
            self._moved_at = now
        self._cursors = dict(cursors)
        if behind and now - self._moved_at > _STUCK_SECONDS:
            return f"stuck, {behind} records behind"
        return "ok" if behind == 0 else f"ok, {behind} records behind"

    def _tell(self, found: dict[str, str]) -> None:
        for part, state in found.items():
            before = self._found.get(part, "ok")
            if (state.startswith("ok")) != (before.startswith("ok")):
                say = log.info if state.startswith("ok") else log.warning
                say("dependency is back" if state.startswith("ok") else "dependency is away", part=part, state=state)


async def _said(look: Callable[[], Awaitable[None]]) -> str:
    try:
        await look()
    except TimeoutError:
        return "does not answer"
    except Exception as error:
        # The kind says enough; the text may name hosts and accounts, and this is open to anybody.
        return f"unavailable ({type(error).__name__})"
    return "ok"


@router.get("/health/live", responses=returns(200, HealthAnswer))
@access.public
async def live() -> Response:
    """Whether the process answers at all."""
    return Answer(HealthAnswer(status="ok", checks={"process": "ok"}))


@router.get("/health/ready", responses=returns(200, HealthAnswer))
@access.public
async def ready(request: Request) -> Response:
    """Whether the process can do its work: 503 while something it needs is away."""
    services = await services_of(request)
    checks = await services.health.checks()
    checks["live"] = "; ".join(services.relay.problems().values()) or "ok"
    needed = all(checks.get(part, "").startswith("ok") for part in ("database", "log", "store"))
    return Answer(HealthAnswer(status="ok" if needed else "unavailable", checks=checks), 200 if needed else 503)
