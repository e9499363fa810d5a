"""Whose times the records of the log get: the broker's, or, while a backup is restored, those that they had.

As long as it is the latter, `adapters.topics.check_topics` refuses the topic, so no service starts on a half-restored log.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from adapters.kafka import client_options, topic_name
from adapters.settings import KafkaSettings
from adapters.topics import KNOWN_SECONDS, config_of, configs_of
from schemas.topics import EVENTS

TYPE = "message.timestamp.type"
OWN, BROKER = "CreateTime", "LogAppendTime"
# The broker's clock may have been wrong once, and behind what it says now.
_ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1), "message.timestamp.before.max.ms": str(2**63 - 1)}


async def are_own(settings: KafkaSettings) -> bool:
    """Whether the log's topic is there and its records keep their own times: a restore is under way, or was interrupted."""
    name = topic_name(settings, EVENTS)
    async with _Admin(settings) as admin:
        if name not in await admin.list_topics():
            return False
        return (await configs_of(admin, [name]))[name].get(TYPE) == OWN


async def keep_own(settings: KafkaSettings) -> None:
    """From now on records keep the times that they are sent with. Raises `KafkaError`."""
    await _set(settings, {**config_of(settings, EVENTS), TYPE: OWN, **_ANY_TIME})


async def stamp(settings: KafkaSettings) -> None:
    """From now on the broker stamps records, as it should. Raises `KafkaError`."""
    await _set(settings, config_of(settings, EVENTS))


async def _set(settings: KafkaSettings, config: dict[str, str]) -> None:
    name = topic_name(settings, EVENTS)
    async with _Admin(settings) as admin:
        # All of the topic's configuration: what is not named goes back to the broker's default.
        for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=config)]):
            for code, message, *_ in answer.resources:
                if code:
                    raise for_code(code)(f"{name}: {message or code}")
        async with asyncio.timeout(KNOWN_SECONDS):
            while (await configs_of(admin, [name]))[name].get(TYPE) != config[TYPE]:  # noqa: ASYNC110 — nobody tells.
                await asyncio.sleep(0.02)


class _Admin:
    """An admin client for the length of a block."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client = AIOKafkaAdminClient(**client_options(settings))

    async def __aenter__(self) -> Any:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
