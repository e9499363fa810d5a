"""What every test may ask for: the real broker and the real PostgreSQL of the run. And what is begun first."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

gc.disable()  # Until everything is imported: it would look through the same million objects again and again.

pytest_plugins = ["tests.servers"]

LONG = ("e2e", "backup", "simulation", "audit", "projections", "api", "workers")
"""Folders whose files take minutes, the longest first. What is long and begun last is what everybody waits for."""


# How long an example takes is the machine's affair.
settings.register_profile("ravand", deadline=None)
settings.load_profile("ravand")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files; within a file nothing moves. The processes of a run take whole files, in this order."""
    tests = config.rootpath / "tests"
    places = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.relative_to(tests).parts[0], len(LONG)))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look at it any more."""
    gc.collect()
    gc.freeze()
    gc.enable()
