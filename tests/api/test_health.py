"""The look at the log that guards appends: it comes to its end though nobody had the patience to wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.settings import Settings
from api import health
from api.errors import Problem
from api.health import Gate, LogProbe
from tests.api.platform import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def gate(module_settings: Settings) -> AsyncIterator[Gate]:
    probe = LogProbe(module_settings)
    yield Gate(probe)
    await probe.close()


async def test_who_is_turned_away_leaves_a_look_that_lets_the_next_one_in(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_GATE_SECONDS", 0.0)  # Nobody waits for the broker, however fast it is.
    gate.suspect()
    with pytest.raises(Problem, match="The log does not answer"):
        await gate.check()

    async def is_open() -> bool:
        try:
            await gate.check()
        except Problem:
            return False
        return True

    await eventually(is_open, 30)
