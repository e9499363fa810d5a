"""Creates the topics, for `ravand admin init` alone, and checks them at every start.

A topic with a finite retention where the log is kept for ever, or with another number of partitions, would lose or misplace
history without a word; so a process that finds one refuses to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from adapters.kafka import client_options, topic_name
from adapters.settings import KafkaSettings
from schemas.topics import EVENTS, TOPICS, Topic

KNOWN_SECONDS = 30.0


class WrongTopics(Exception):
    """Topics are missing or differ from what is stated; the message names each and what to do."""


def config_of(settings: KafkaSettings, topic: Topic) -> dict[str, str]:
    """The topic's configuration, as far as it is not the broker's default."""
    if settings.replication_factor < 3:
        return topic.config
    return {**topic.config, "min.insync.replicas": str(settings.replication_factor - 1)}


class MissingTopics(WrongTopics):
    """Some topics are not there yet and the others are as stated: `ravand admin init` has not run, or is running."""


async def create_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing; answer their names once the brokers know them. Raises `KafkaError`.

    What exists is left as it is, right or wrong: `check_topics` tells.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if topic_name(settings, topic) not in existing]
        if not missing:
            return []
        answer = await admin.create_topics(
            [
                NewTopic(
                    topic_name(settings, topic),
                    topic.partitions,
                    settings.replication_factor,
                    topic_configs=config_of(settings, topic),
                )
                for topic in missing
            ]
        )
        created = []
        for name, code, *message in answer.topic_errors:
            error = for_code(code)
            if not code:
                created.append(name)
            # Somebody else may be initialising at the same time; the check that follows compares what came of it.
            elif error is not TopicAlreadyExistsError:
                raise error(f"{name}: {message[0] if message else code}")
        await _until_known(admin, [topic_name(settings, topic) for topic in missing])
        return created
    finally:
        await admin.close()


async def _until_known(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    # The controller answers before every broker has heard; a check right after it would miss what was just created.
    async with asyncio.timeout(KNOWN_SECONDS):
        while any(  # noqa: ASYNC110 — nobody tells; one has to ask.
            topic["error_code"] or any(partition["leader"] < 0 for partition in topic["partitions"])
            for topic in await admin.describe_topics(names)
        ):
            await asyncio.sleep(0.05)


async def check_topics(settings: KafkaSettings) -> None:
    """Compare every topic with what is stated.

    Raises `WrongTopics` naming each difference; `MissingTopics` when the only one is that some are not there yet.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    try:
        problems = [problem async for problem in _problems(admin, settings)]
    finally:
        await admin.close()
    if problems:
        kind = MissingTopics if all(problem.endswith(" is missing") for problem in problems) else WrongTopics
        raise kind("; ".join(problems) + ". `ravand admin init` creates what is missing; it changes nothing.")


async def _problems(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> AsyncIterator[str]:
    existing = set(await admin.list_topics())
    names = {topic_name(settings, topic): topic for topic in TOPICS}
    for name in names:
        if name not in existing:
            yield f"topic {name} is missing"
    present = [name for name in names if name in existing]
    for described in await admin.describe_topics(present) if present else ():
        wanted = names[described["topic"]].partitions
        if len(described["partitions"]) != wanted:
            yield f"topic {described['topic']} has {len(described['partitions'])} partitions, not {wanted}"
    for name, config in (await configs_of(admin, present)).items():
        for key, value in config_of(settings, names[name]).items():
            found = config.get(key)
            if _normal(found) == _normal(value):
                continue
            if names[name] is EVENTS and (key, found) == ("message.timestamp.type", "CreateTime"):
                yield f"topic {name} waits for a restore to be finished: run the same `ravand admin restore` once more"
            else:
                yield f"topic {name} has {key}={found}, not {value}"


async def configs_of(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The configurations of these topics, defaults included."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for resource in response.resources:
            _error, _message, _type, name, entries = resource
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _normal(value: str | None) -> str | None:
    return ",".join(sorted(value.split(","))) if value else value
