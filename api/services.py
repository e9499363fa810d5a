"""What the endpoints are handed: built once by the application, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from api.access import Caller, caller_of

if TYPE_CHECKING:
    import asyncpg

    from adapters.dataset_files.profiler import Profiler
    from adapters.object_store import ObjectStore
    from adapters.settings import Settings
    from api.accounts.passwords import Hasher
    from api.accounts.sessions import Sessions
    from api.accounts.throttle import Throttle
    from api.catalog import Catalog
    from api.gathered import Gathered
    from api.health import Health
    from api.job_answers import ListedJobs
    from api.kept import Kept
    from api.listener import Listener
    from api.live import Relay
    from api.proposals import Proposals
    from api.versions import Versions
    from projections.queries import JobSeen


@dataclass(slots=True, kw_only=True)
class Services:
    """One of each for the process."""

    settings: Settings
    pool: asyncpg.Pool
    listener: Listener
    sessions: Sessions
    throttle: Throttle
    hasher: Hasher
    versions: Versions
    proposals: Proposals
    catalog: Catalog
    jobs: Gathered[tuple[str, str], JobSeen]
    listed: ListedJobs
    store: ObjectStore
    profiler: Profiler
    checksums: Kept[str, int]
    health: Health
    relay: Relay


async def services_of(request: Request) -> Services:
    """The services, for endpoints."""
    services: Services = request.app.state.services
    return services


CurrentCaller = Annotated[Caller, Depends(caller_of)]
