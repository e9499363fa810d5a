"""Who follows a topic waits out what is away, the beginning included."""

from __future__ import annotations

import asyncio

from adapters.settings import KafkaSettings
from adapters.topics import create_topics
from api.live.tail import Tail
from schemas.topics import TELEMETRY
from storm.proxy import Proxy
from tests.servers import kafka_settings_of


class Gate(Proxy):
    """Refuses as long as it has no target, and tells when it has."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = self.target is None
        await super()._serve(reader, writer)
        if closed:
            self.refused.set()


async def test_a_broker_that_is_away_at_the_beginning_is_waited_for(
    kafka_settings: dict[str, str], topic_prefix: str
) -> None:
    settings = kafka_settings_of(kafka_settings, topic_prefix)
    await create_topics(settings)
    gate = Gate()
    await gate.start()
    wanted = asyncio.Event()
    wanted.set()
    behind = settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{gate.port}"})
    tail = Tail(behind, TELEMETRY, wanted, lambda partition, records: None)
    running = asyncio.create_task(tail.run())
    try:
        async with asyncio.timeout(60):
            await gate.refused.wait()
            assert not tail.following.is_set()
            gate.target = _address(settings)
            await tail.following.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await gate.stop()


def _address(settings: KafkaSettings) -> tuple[str, int]:
    host, _, port = settings.bootstrap_servers.partition(",")[0].rpartition(":")
    return host, int(port)
