"""PostgreSQL as this system uses it: asyncpg, bounded in time, and told apart what is the server's trouble and what ours.

Every session has a name, a statement timeout and keep-alives, so that neither a dead peer nor a forgotten transaction
holds a connection for ever. What a caller does with a failure depends on `is_outage`: wait and try again, or stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from adapters.settings import DatabaseSettings

CONNECT_SECONDS = 10.0
_SCHEMES = ("postgresql+asyncpg://", "postgres+asyncpg://", "postgres://")
_CLIENT_MARGIN_SECONDS = 5.0
"""How much longer than the server the client waits: the server's own answer says more."""
_IDLE_IN_TRANSACTION_SECONDS = 60

_OUTAGES: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.PostgresSystemError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The connection was closed under us, or the driver found it in a state in which it cannot go on.
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


def asyncpg_url(url: str) -> str:
    """`url` as asyncpg takes it, whichever of the usual schemes it was written with."""
    for scheme in _SCHEMES:
        if url.startswith(scheme):
            return "postgresql://" + url.removeprefix(scheme)
    return url


def sqlalchemy_url(url: str) -> str:
    """`url` as SQLAlchemy takes it for its asyncpg dialect."""
    return asyncpg_url(url).replace("postgresql://", "postgresql+asyncpg://", 1)


def connection_options(settings: DatabaseSettings, *, name: str) -> dict[str, Any]:
    """Options of every connection. `name` is what an operator sees in `pg_stat_activity`."""
    timeout = settings.statement_timeout_seconds
    return {
        "dsn": asyncpg_url(settings.url.get_secret_value()),
        "timeout": CONNECT_SECONDS,
        "command_timeout": timeout + _CLIENT_MARGIN_SECONDS,
        "server_settings": {
            "application_name": f"ravand-{name}",
            "statement_timeout": str(int(timeout * 1000)),
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_SECONDS * 1000),
            "timezone": "UTC",
            # A peer that vanished without a word, its machine gone, lets go of its locks within about fifteen seconds.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "3",
            "tcp_keepalives_count": "3",
        },
    }


def patient_options(
    settings: DatabaseSettings, *, name: str, session: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The same for whoever reads or writes for as long as it takes: neither statements nor transactions are bounded in time.

    `session` are further settings of the server for it.
    """
    options = connection_options(settings, name=name)
    options["server_settings"] |= {
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        **(session or {}),
    }
    return {**options, "command_timeout": None}


async def create_pool(
    settings: DatabaseSettings,
    *,
    name: str,
    size: int | None = None,
    plans: Mapping[str, str] | None = None,
    **options: Any,
) -> asyncpg.Pool:
    """A started pool of at most `size` connections (the setting's when not given). Raises what `is_outage` knows.

    `plans` are settings of the server's planner for every session of the pool; `options` are asyncpg's own, and win.
    """
    session = connection_options(settings, name=name)
    session["server_settings"] |= plans or {}
    return await asyncpg.create_pool(**{**session, "min_size": 1, "max_size": size or settings.pool_size, **options})


async def as_it_is(_connection: asyncpg.Connection) -> None:
    """As a pool's `reset`, where no statement leaves anything in a session: the round trip that would clean it each time
    that a connection comes back is saved."""


async def connect(settings: DatabaseSettings, *, name: str, **options: Any) -> asyncpg.Connection:
    """A connection of its own: for listening, and for locks that live as long as it does."""
    return await asyncpg.connect(**connection_options(settings, name=name), **options)


def is_outage(error: BaseException) -> bool:
    """Whether the server, or the way to it, failed: the same statement may succeed later, and nothing is wrong with us.

    The outcome of a transaction that ended like this is unknown: it may have been committed.
    """
    # Arguments of the wrong type are InterfaceErrors too, and they are ours.
    return isinstance(error, _OUTAGES) and not isinstance(error, ValueError)
