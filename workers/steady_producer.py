"""A producer that does not give up: what is appended is repeated, the same bytes, until the log acknowledges it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from adapters import kafka
from adapters.settings import KafkaSettings

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
SAY_AFTER = 2.0
"""After so many seconds without an acknowledgement somebody should be told."""


def quieten_client() -> None:
    """Let aiokafka be silent about connections: while the broker is away it says the same ten times a second.

    What matters is said once, here and in `workers.tail`. At the level debug, everything is said.
    """
    client = logging.getLogger("aiokafka")
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        client.setLevel(logging.CRITICAL)


class SteadyProducer:
    """One idempotent producer, replaced by another one whenever it has failed.

    aiokafka gives up a batch when its partition has had no leader for some seconds, as during a restart of the broker.
    The sequence numbers of that batch are used up, and the broker refuses all that follows: only a new producer goes on.
    A repeated record may then be in the log twice, which the fold sorts out.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """Connects when it is first needed."""
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._making = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._silent = False
        self._log = structlog.get_logger("producer")

    async def append(
        self,
        topic: str,
        *,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Return once the log has acknowledged, however long that takes. Cancelled, the record may or may not be there.

        Raises MessageSizeTooLargeError for what the log never takes.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                producer = await self._ready()
                try:
                    sent = await producer.send(topic, value, key=key, partition=partition, headers=list(headers))
                    await self._acknowledged(sent)
                except MessageSizeTooLargeError:
                    raise  # The producer is well, and others wait for it.
                except KafkaError:
                    self._retire(producer)
                    raise
                return
            except MessageSizeTooLargeError:
                raise
            except (KafkaError, OSError) as error:
                self._say_silent(error)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _acknowledged(self, sent: asyncio.Future[object]) -> None:
        # aiokafka repeats a batch by itself, without a word. Our being cancelled must not cancel it: it holds more records.
        done, _ = await asyncio.wait({sent}, timeout=SAY_AFTER)
        if not done:
            self._say_silent(None)
        await asyncio.shield(sent)
        if self._silent:
            self._silent = False
            self._log.info("Kafka answers again")

    def _say_silent(self, error: Exception | None) -> None:
        if not self._silent:
            self._silent = True
            why = {} if error is None else {"error": str(error) or type(error).__name__}
            self._log.warning("Kafka does not answer; what is to be written is kept and repeated", **why)

    async def connect(self) -> None:
        """Connect ahead of the first record, which is then faster."""
        while True:
            with contextlib.suppress(KafkaError, OSError):
                await self._ready()
                return
            await asyncio.sleep(LONGEST_PAUSE)

    async def close(self) -> None:
        """End it. What is not acknowledged by now is given up."""
        if self._producer is not None:
            self._retire(self._producer)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _ready(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._making:
            if self._producer is None:
                producer = kafka.producer(self._settings)
                try:
                    await producer.start()
                except BaseException:
                    self._retire(producer)
                    raise
                self._producer = producer
        return self._producer

    def _retire(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
        closing = asyncio.create_task(kafka.abandon(producer))  # Others who sent through it repeat it.
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
