"""Real training children, and a store with data for them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.durable_files import sha256_of
from adapters.object_store_blocking import BlockingObjectStore
from domain.events import DatasetRef
from tests.recipes.made_up import fruit
from tests.workers.trainer import strange_recipes
from tests.workers.trainer.bench import Bench
from workers.warm_child import WarmChildren


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def children(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WarmChildren]:
    """One fork server for all tests: it takes seconds to load torch."""
    plugin = tmp_path_factory.mktemp("plugin")
    strange_recipes.install(plugin)
    root = str(Path(__file__).parents[3])
    kept = WarmChildren({"PYTHONPATH": os.pathsep.join((str(plugin), root))})
    await kept.start()
    yield kept
    await kept.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A store with the table about fruit."""
    store = BlockingObjectStore(f"file://{tmp_path}/store")
    store.init_sync()
    table = fruit(tmp_path / "fruit.csv", rows=60)
    store.put_file_sync("datasets/fruit", table)
    return Bench(tmp_path, store, DatasetRef(id="d", uri="datasets/fruit", sha256=sha256_of(table), format="csv"))
