"""An installation for each test: topics and a store of its own, a projector that judges in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from adapters.topics import create_topics
from tests.workers.installation import Installation
from tests.workers.small_projector import SmallProjector


@pytest.fixture
async def installation(
    tmp_path: Path, kafka_settings: Mapping[str, str], topic_prefix: str
) -> AsyncIterator[Installation]:
    made = Installation(tmp_path, kafka_settings, topic_prefix)
    await create_topics(made.settings.kafka)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def projector(installation: Installation) -> AsyncIterator[SmallProjector]:
    async with SmallProjector(installation.settings.kafka) as judging:
        yield judging

    def failure(self) -> Failed:
        """The one failure that was told."""
        (failed,) = self.heard(Failed)
        return failed


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A store with the table about fruit."""
    store = BlockingObjectStore(f"file://{tmp_path}/store")
    store.init_sync()
    table = fruit(tmp_path / "fruit.csv", rows=60)
    store.put_file_sync("datasets/fruit", table)
    return Bench(tmp_path, store, DatasetRef(id="d", uri="datasets/fruit", sha256=sha256_of(table), format="csv"))
