"""A platform's log and database of its own for each test, on the servers that all tests share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from adapters.migrations import migrate
from adapters.settings import Settings
from adapters.topics import create_topics
from tests.projections.platform import Log, settings_for
from tests.servers import Servers, in_thread


@pytest.fixture(scope="session")
def database_template(servers: Servers) -> Iterator[str]:
    """A database in which the migrations were run."""
    name = f"template_{uuid.uuid4().hex}"
    servers.create_database(name)
    in_thread(migrate(servers.database_url(name)))
    yield name
    servers.drop_database(name)


@pytest.fixture
def settings(kafka_settings: dict[str, str], topic_prefix: str, database_url: str) -> Settings:
    """How the services of this test find its topics and its database."""
    return settings_for(kafka_settings, topic_prefix, database_url)


@pytest_asyncio.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    """The log of this test, with its topics made."""
    await create_topics(settings.kafka)
    async with Log.of(settings) as opened:
        yield opened
