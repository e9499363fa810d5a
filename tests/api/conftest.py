"""One platform for the tests of a module: starting it takes a second, and members keep tests apart."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.logging import configure
from adapters.settings import Settings
from tests.api.platform import Member, Platform, initialise, serving, settings_for
from tests.servers import Servers, in_thread


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """As in a service: one line an event. structlog's own default would draw tracebacks with everybody's variables."""
    logger = logging.getLogger()
    handlers = list(logger.handlers)
    configure(Settings(log_format="json", log_level="info"), "test")
    logger.handlers[:] = [*handlers, *(handler for handler in logger.handlers if handler not in handlers)]


@pytest.fixture(scope="module")
def module_settings(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Topics, a database and a store for one module, which may change settings by its `SETTINGS`."""
    name = uuid.uuid4().hex[:12]
    settings = settings_for(
        servers.kafka,
        f"api-{name}.",
        servers.database_url(f"api_{name}"),
        tmp_path_factory.mktemp("api"),
        **getattr(request.module, "SETTINGS", {}),
    )
    servers.create_database(f"api_{name}")
    in_thread(initialise(settings))
    yield settings
    servers.drop_database(f"api_{name}")
    servers.delete_topics(settings.kafka.prefix)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(module_settings: Settings) -> AsyncIterator[Platform]:
    """The running platform of the module."""
    async with serving(module_settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def member(platform: Platform) -> AsyncIterator[Member]:
    """Somebody new."""
    async with platform.member() as somebody:
        yield somebody


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(platform: Platform) -> AsyncIterator[Member]:
    """Somebody else, in a workspace of their own."""
    async with platform.member("Stranger") as somebody:
        yield somebody


@pytest.fixture
def objects(module_settings: Settings) -> Path:
    """The folder of the object store."""
    return Path(module_settings.store.url.removeprefix("file://"))
