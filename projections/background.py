"""What nobody waits for, in one process: measurements are stored, and snapshots for time travel are kept."""

from __future__ import annotations

import asyncio

from adapters.settings import Settings
from projections import snapshots, telemetry_sink


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Both until `stop` is set, in tables that were found right."""
    keeping = asyncio.create_task(snapshots.run(settings, stop))
    try:
        await telemetry_sink.run(settings, stop)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
