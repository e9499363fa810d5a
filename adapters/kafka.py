"""The Kafka client, as this system uses it: plain aiokafka, positions of our own, no consumer groups.

Two things differ from the client's defaults. Producers are idempotent with `acks=all`, and since aiokafka then retries for
ever, a deadline of our own bounds the wait: past it the outcome is *unknown*, not failed, because a cancelled send may still
arrive. And every partition is chosen by Kafka's murmur2 on the key, which `partition_of` computes for readers and judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import aiokafka.client
import aiokafka.conn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2

from adapters.settings import KafkaSettings
from schemas.topics import Topic

Headers = Sequence[tuple[str, bytes]]
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.4
CONNECT_SECONDS = 3.0
"""A broker that takes a connection and does not greet within this is passed over for the next one."""
PARTING_SECONDS = 5.0
"""How long the end of a client is waited for."""
_create_conn = aiokafka.client.create_conn


async def _connected_in_time(*arguments: Any, **options: Any) -> Any:
    """aiokafka waits for a greeting as long as for any answer, and connects to one broker at a time: while one of three
    is frozen, whatever else a client wants to connect to would wait behind it."""
    async with asyncio.timeout(CONNECT_SECONDS):
        return await _create_conn(*arguments, **options)


aiokafka.client.create_conn = _connected_in_time


@lru_cache(maxsize=8)
def _salted(hash: str, password: bytes, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac(hash, password, salt, iterations)


def _keep_salted_password(self: Any, salt: bytes, iterations: int) -> None:
    """Kept as RFC 5802 (section 3) allows: its rounds are 2 ms of CPU for each connection, and a projector makes dozens."""
    self._salted_password = _salted(self._hashname, self._sasl_plain_password, salt, iterations)


aiokafka.conn.ScramAuthenticator.create_salted_password = _keep_salted_password


class OutcomeUnknown(Exception):
    """An append was not acknowledged in time: it may or may not be in the log. Repeat the same bytes to find out."""


@lru_cache(maxsize=16_384)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as every Kafka client's default partitioner has it (murmur2, positive).

    Kept, since murmur2 is slow in Python and keys repeat.
    """
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class Murmur2Partitioner:
    """The same for the producer, over all partitions: one that is unavailable is waited for, never avoided."""

    def __call__(self, key: bytes | None, all_partitions: list[int], available: list[int]) -> int:
        if key is None:
            raise ValueError("every record has a key")
        return all_partitions[partition_of(key, len(all_partitions))]


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Connection options that producers, consumers and admin clients share."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": 10_000,
        "retry_backoff_ms": 100,
    }
    if settings.security_protocol.startswith("SASL"):
        password = settings.sasl_password
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    if settings.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(settings.ssl_cafile) if settings.ssl_cafile else None)
        if settings.ssl_certfile:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
        options["ssl_context"] = context
    return options


def topic_name(settings: KafkaSettings, topic: Topic) -> str:
    """The topic's name in this installation."""
    return settings.prefix + topic.name


class _Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # Untyped, so Any to us.
    """aiokafka's, but for its end: `stop` waits for tasks that it has cancelled, and the cancellation of a fetch that was
    pausing after an error, or of a task that had not begun, comes out of it, as if whoever stops it had been cancelled."""

    async def stop(self) -> None:
        """End it."""
        await asyncio.sleep(0)  # What `start` created last begins.
        fetcher = self._fetcher
        if fetcher is not None and not self._closed:
            fetcher._fetch_task.cancel()
            await asyncio.gather(fetcher._fetch_task, return_exceptions=True)
            for fetch in fetcher._pending_tasks:
                fetch.cancel()
            await asyncio.gather(*fetcher._pending_tasks, return_exceptions=True)
            fetcher._pending_tasks = set()
        await super().stop()


def _patient(client: Any) -> None:
    """Let a client of aiokafka pause after it could not read the metadata.

    By itself it tries again at once, and while the broker refuses connections it does so a thousand times a second.
    """
    update, pause = client._metadata_update, _FIRST_PAUSE

    async def update_or_pause(*arguments: Any) -> bool:
        nonlocal pause
        if await update(*arguments):
            pause = _FIRST_PAUSE
            return True
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)
        return False

    client._metadata_update = update_or_pause


def producer(settings: KafkaSettings, *, linger_ms: int = 0, **overrides: Any) -> AIOKafkaProducer:
    """An idempotent producer, not yet started."""
    options: dict[str, Any] = {
        **client_options(settings),
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": linger_ms,
        "max_batch_size": 256 * 1024,
        "max_request_size": 8 * 1024 * 1024,
        "partitioner": Murmur2Partitioner(),
        **overrides,
    }
    made = AIOKafkaProducer(**options)
    _patient(made.client)
    return made


def consumer(settings: KafkaSettings, **overrides: Any) -> AIOKafkaConsumer:
    """A consumer without a group, not yet started and nothing assigned: the caller assigns and seeks."""
    options: dict[str, Any] = {
        **client_options(settings),
        "enable_auto_commit": False,
        "group_id": None,
        "isolation_level": "read_committed",
        "auto_offset_reset": "none",
        "fetch_max_wait_ms": 500,
        "max_partition_fetch_bytes": 4 * 1024 * 1024,
        **overrides,
    }
    made = _Consumer(**options)
    _patient(made._client)
    return made


async def let_go(client: AIOKafkaConsumer) -> None:
    """End a consumer, whatever state it is in."""
    with contextlib.suppress(KafkaError, TimeoutError, OSError):
        async with asyncio.timeout(PARTING_SECONDS):
            await client.stop()


async def abandon(client: AIOKafkaProducer) -> None:
    """End a producer without waiting for what it has not sent: the connections first, so that nothing more leaves.

    Whoever still waits for an acknowledgement gets a `KafkaConnectionError`; the record may or may not be in the log.
    """
    client._closed = True  # `stop` would flush, and that may take for ever.
    await asyncio.sleep(0)  # What `start` created last begins: cancelled before, it would look as if we had been.
    try:
        with contextlib.suppress(KafkaError, TimeoutError, OSError):
            async with asyncio.timeout(PARTING_SECONDS):
                await client.client.close()
                await client._sender.close()
                await client.client.close()  # The sender may have connected anew in between.
    finally:
        fail_waiting(client)


AT_LEISURE: dict[str, Any] = {"fetch_min_bytes": 256 * 1024, "fetch_max_wait_ms": 500}
"""Options of a consumer whom half a second's delay does not matter. A fetch of twelve partitions costs the reader and the
broker as much as many records do: this one is answered twice a second instead of after every record."""


def fail_waiting(closed: AIOKafkaProducer) -> None:
    """Whoever still waits for an acknowledgement of a producer that was closed gets a `KafkaConnectionError`.

    aiokafka lets them wait for ever, and whoever shares a producer does not know that somebody else closed it.
    """
    accumulator = closed._message_accumulator
    batches = {
        *accumulator._pending_batches,
        *(batch for waiting in accumulator._batches.values() for batch in waiting),
    }
    # One that was to be sent again is not among the pending ones, where its end looks for it.
    accumulator._pending_batches.update(batches)
    accumulator.fail_all(KafkaConnectionError("the producer was closed before this was acknowledged"))
    for batch in batches:
        for future in (batch._drain_waiter, *(future for future, _ in batch._msg_futures)):
            if not future.cancelled():
                future.exception()  # Where nobody waits any more, nobody is told that nobody looked.


class Appender:
    """Appends records one at a time, each bounded by our own deadline."""

    def __init__(self, producer: AIOKafkaProducer, deadline_seconds: float) -> None:
        self._producer = producer
        self._deadline = deadline_seconds

    async def append(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Return once the log has acknowledged. Raises `OutcomeUnknown` when it has not in time.

        The produce offset is not returned on purpose: after a late retry aiokafka reports a made-up one. A record that
        is too large is no unknown outcome but a mistake of the caller: `MessageSizeTooLargeError`, and nothing is written.
        """
        try:
            async with asyncio.timeout(self._deadline):
                sent = await self._producer.send(topic, value, key=key, partition=partition, headers=list(headers))
                # The batch goes on by itself if we stop waiting; shielding keeps our timeout from cancelling its future.
                await asyncio.shield(sent)
        except MessageSizeTooLargeError:
            raise
        except (TimeoutError, KafkaError) as error:
            raise OutcomeUnknown(f"{topic}: {type(error).__name__}") from error
