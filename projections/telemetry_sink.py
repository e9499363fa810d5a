"""The telemetry sink: a consumer group that writes measurements to PostgreSQL and acknowledges after the write.

FastStream is right here: position and order are the group's business, and every write may happen twice. Its default
would acknowledge first and lose what a handler fails on, so the policy is MANUAL, and the handler does not return before
its batch is stored. A group's consumer can live on without ever joining again; so progress is watched, and a consumer
that makes none is built anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import structlog
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from adapters.kafka import client_options, topic_name
from adapters.postgres import create_pool, is_outage
from adapters.settings import KafkaSettings, Settings
from projections.telemetry_rows import rows, write
from schemas.topics import TELEMETRY

BATCH = 2_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_STALLED_SECONDS = 60.0
_LOOK_SECONDS = 5.0
log = structlog.get_logger(__name__)


def group_of(settings: KafkaSettings) -> str:
    """The consumer group of the sinks of this installation."""
    return f"{settings.prefix}telemetry-sink"


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Store measurements until `stop` is set, in tables that were found right; wait out whatever is away."""
    pool = await create_pool(settings.database, name="telemetry", size=2, min_size=0)
    pause = _FIRST_PAUSE
    log.info("starting")
    try:
        while not stop.is_set():
            try:
                await _consume(Sink(pool, stop), settings.kafka, stop)
                pause = _FIRST_PAUSE
            except Exception as error:
                if not (is_outage(error) or isinstance(error, KafkaError)):
                    raise
                log.warning("waiting", error=f"{type(error).__name__}: {error}")
                pause = min(pause * 2, _LONGEST_PAUSE)
            await _sleep(stop, pause)
    finally:
        pool.terminate()
        log.info("gone")


class Sink:
    """Writes batches. Counts what is no measurement; it is skipped, since nothing rests on it."""

    def __init__(self, pool: asyncpg.Pool, stop: asyncio.Event) -> None:
        self.stored = 0
        self.skipped = 0
        self.last_progress = time.monotonic()
        self._pool = pool
        self._stop = stop

    async def store(self, values: list[bytes | None]) -> bool:
        """Return true once the batch is stored; waits out outages. False when told to stop before that."""
        batch, skipped = rows(values)
        pause = _FIRST_PAUSE
        while True:
            try:
                await write(self._pool, batch)
                break
            except Exception as error:
                if not is_outage(error):
                    log.error("measurements cannot be written; they are tried again", exc_info=error)
                else:
                    log.warning("PostgreSQL is away", error=f"{type(error).__name__}: {error}")
            self.last_progress = time.monotonic()  # Not the consumer's fault.
            await _sleep(self._stop, pause)
            if self._stop.is_set():
                return False
            pause = min(pause * 2, _LONGEST_PAUSE)
        if skipped:
            self.skipped += skipped
            log.warning("records that are no measurements were passed over", records=skipped, in_all=self.skipped)
        self.stored += len(values) - skipped
        self.last_progress = time.monotonic()
        return True


async def _consume(sink: Sink, settings: KafkaSettings, stop: asyncio.Event) -> None:
    """One life of the consumer: until `stop`, or until it makes no progress."""
    broker = KafkaBroker(
        settings.bootstrap_servers.split(","),  # It takes a text for the address of one.
        security=_security(settings),
        allow_auto_create_topics=False,
        consumer_only=True,
        graceful_timeout=5.0,
        apply_types=False,
        # Its own logger has a handler of its own, past our form of a line and past what hides secrets in it.
        logger=logging.getLogger("telemetry.faststream"),
    )
    subscriber = broker.subscriber(
        topic_name(settings, TELEMETRY),
        group_id=group_of(settings),
        batch=True,
        max_records=BATCH,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.MANUAL,
        parser=_without_headers,
        decoder=_whole,
    )

    @subscriber
    async def store(message: Any) -> None:
        if await sink.store(list(message.body)):
            await message.ack()

    try:
        await broker.start()
        while not stop.is_set():
            await _sleep(stop, _LOOK_SECONDS)
            if _answered(subscriber.consumer):
                sink.last_progress = time.monotonic()
            if time.monotonic() - sink.last_progress > _STALLED_SECONDS:
                log.warning("the consumer makes no progress and is replaced")
                return
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            await broker.stop()


async def _without_headers(records: tuple[Any, ...], parse: Callable[[Any], Awaitable[Any]]) -> Any:
    """Headers are not read here, and one without a value would make FastStream drop the whole batch."""
    return await parse(tuple(dataclasses.replace(record, headers=()) for record in records))


async def _whole(message: Any) -> Any:
    """The message itself, undecoded: its values are decoded one by one, and it is acknowledged after the write."""
    return message


def _answered(consumer: Any) -> bool:
    """Whether the broker has lately answered this consumer about any partition that it has."""
    if consumer is None:
        return False
    oldest = (time.time() - 2 * _LOOK_SECONDS) * 1000
    return any((consumer.last_poll_timestamp(at) or 0) > oldest for at in consumer.assignment())


def _security(settings: KafkaSettings) -> BaseSecurity | None:
    options = client_options(settings)
    context = options.get("ssl_context")
    if settings.security_protocol == "PLAINTEXT":
        return None
    if not settings.security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=True)
    kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return kinds[settings.sasl_mechanism](
        username=options["sasl_plain_username"] or "",
        password=options["sasl_plain_password"] or "",
        ssl_context=context,
        use_ssl=settings.security_protocol.endswith("SSL"),
    )


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
