"""An installation: topics and a store of its own, and a projector that judges in memory. One for each test, or one for a file."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.topics import create_topics
from tests.servers import delete_topics
from tests.workers.installation import Installation
from tests.workers.small_projector import SmallProjector


@asynccontextmanager
async def installed(folder: Path, kafka_settings: Mapping[str, str]) -> AsyncIterator[Installation]:
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    made = Installation(folder, kafka_settings, prefix)
    await create_topics(made.settings.kafka)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        await delete_topics(kafka_settings, prefix)


@pytest.fixture
async def installation(tmp_path: Path, kafka_settings: Mapping[str, str]) -> AsyncIterator[Installation]:
    """One for this test."""
    async with installed(tmp_path, kafka_settings) as made:
        yield made


@pytest.fixture
async def projector(installation: Installation) -> AsyncIterator[SmallProjector]:
    """What judges in it."""
    async with SmallProjector(installation.settings.kafka) as judging:
        yield judging


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, kafka_settings: Mapping[str, str]
) -> AsyncIterator[tuple[Installation, SmallProjector]]:
    """One for all tests of a file, with one worker: it has to live through all that they do to it."""
    async with (
        installed(tmp_path_factory.mktemp("shared"), kafka_settings) as made,
        SmallProjector(made.settings.kafka) as judging,
    ):
        worker = made.start("worker")
        yield made, judging
        assert worker.process.poll() is None, worker.said
