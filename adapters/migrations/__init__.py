"""The database's schema, in numbered steps. `migrate` brings a database to the newest; `check` refuses any other.

The steps are files `versions/NNNN_what.py` whose revision is that number; they form one line. Only `migrate` imports
alembic and SQLAlchemy: the services check at their start and stay small.
"""

from __future__ import annotations

from pathlib import Path

import asyncpg

from adapters.postgres import CONNECT_SECONDS, asyncpg_url, sqlalchemy_url

VERSION_SCHEMA = "log"
VERSION_TABLE = "schema_version"
_FOLDER = Path(__file__).parent
_LOCK = 0x7261_7661  # "rava": everybody who migrates takes it first.


class WrongSchema(Exception):
    """The database is not at the step that this build works with; the message says what to do."""


class MissingTables(WrongSchema):
    """The database is empty, or at an older step: `ravand admin init` has not run, or is running."""


def newest() -> str:
    """The number of the newest step in this build."""
    return max(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


async def migrate(url: str) -> None:
    """Bring the database to the newest step, in one transaction; do nothing if it is there already.

    Several processes may do this at once: they take turns. Raises `WrongSchema` for a database of a newer build, and what
    asyncpg raises.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection, text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))

    def upgrade(connection: Connection) -> None:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    if (found := await _version(url)) is not None and found > newest():
        raise WrongSchema(_newer(found))
    engine = create_async_engine(sqlalchemy_url(url))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    except DBAPIError as error:
        # SQLAlchemy wraps it twice; whoever calls us knows asyncpg's kinds.
        raise (error.orig and error.orig.__cause__) or error from None
    finally:
        await engine.dispose()


async def check(url: str) -> None:
    """Return if the database is at the newest step. Raises `WrongSchema` if not, and what asyncpg raises."""
    found = await _version(url)
    if found == newest():
        return
    if found is None:
        raise MissingTables("The database has no tables of Ravand. `ravand admin init` makes them.")
    if found > newest():
        raise WrongSchema(_newer(found))
    raise MissingTables(
        f"The database is at schema step {found}; this build works with {newest()}. `ravand admin init` brings it there."
    )


def _newer(found: str) -> str:
    return (
        f"The database is at schema step {found}, of a newer Ravand; this build knows {newest()}. Run the newer one;"
        " nothing was changed."
    )


async def _version(url: str) -> str | None:
    connection = await asyncpg.connect(asyncpg_url(url), timeout=CONNECT_SECONDS)
    try:
        found = await connection.fetchval("SELECT version_num FROM log.schema_version")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    finally:
        await connection.close()
    return str(found) if found is not None else None
