"""Connections for whoever rebuilds: statements may take minutes, and what is lost in a power loss is made again."""

from __future__ import annotations

import asyncpg

from adapters.postgres import patient_options
from adapters.settings import Settings

# As the projector's: plans that are made while a table is still small and read all of it would be kept.
_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}


async def connection(settings: Settings) -> asyncpg.Connection:
    """One of its own: for the lock that says that a rebuild runs, for comparing, and for the swap."""
    return await asyncpg.connect(**patient_options(settings.database, name="rebuild"))


async def pool(settings: Settings, size: int) -> asyncpg.Pool:
    """For judging. A commit need not wait for the disk: rows and position are lost together, if at all."""
    options = patient_options(settings.database, name="rebuild", session={**_PLANS, "synchronous_commit": "off"})
    return await asyncpg.create_pool(min_size=0, max_size=size, **options)
