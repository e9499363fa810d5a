"""The one producer that all partitions of a projector share."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from projections.batch import JOURNAL, KEY, OFFSET, REFUSAL, VALUE
from projections.kafka_clients import Producers
from tests.projections.platform import Log


@pytest.mark.parametrize("steps", [1, 3, 10])
async def test_nobody_waits_for_a_producer_that_another_partition_has_given_up(log: Log, steps: int) -> None:
    producers = Producers(log.settings.kafka)
    publisher = await producers.publisher()
    letter: list[Any] = [None] * len(JOURNAL)
    letter[OFFSET], letter[KEY], letter[VALUE], letter[REFUSAL] = 0, b"team", b"no record", "undecodable"
    await publisher.dead_letters(3, [tuple(letter)], {})  # It is well, and knows the topic.
    waiting = asyncio.create_task(publisher.dead_letters(3, [tuple(letter)], {}))
    for _ in range(steps):  # Less than the broker needs for an answer.
        await asyncio.sleep(0)
    await producers.discard(publisher)
    async with asyncio.timeout(30):
        with contextlib.suppress(KafkaError):  # It may have been acknowledged after all.
            await waiting
        await (await producers.publisher()).dead_letters(3, [tuple(letter)], {})
    await producers.close()
