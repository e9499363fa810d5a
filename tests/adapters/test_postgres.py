"""PostgreSQL: how it is reached, what counts as an outage, and the numbered steps of its schema."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.migrations import WrongSchema, check, migrate, newest
from adapters.migrations.tables import metadata
from adapters.postgres import asyncpg_url, create_pool, is_outage, sqlalchemy_url
from adapters.settings import DatabaseSettings


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_usual_way_to_write_the_url_works(scheme: str) -> None:
    assert asyncpg_url(f"{scheme}://u:p@h/d") == "postgresql://u:p@h/d"
    assert sqlalchemy_url(f"{scheme}://u:p@h/d") == "postgresql+asyncpg://u:p@h/d"


async def test_sessions_have_a_name_and_every_statement_a_limit(database_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(database_url), statement_timeout_seconds=0.2)
    pool = await create_pool(settings, name="test", size=1, plans={"enable_seqscan": "off"})
    try:
        shown = await pool.fetchrow(
            "SELECT current_setting('application_name'), current_setting('statement_timeout'),"
            " current_setting('enable_seqscan')"
        )
        assert tuple(shown) == ("ravand-test", "200ms", "off")
        with pytest.raises(asyncpg.QueryCanceledError) as cancelled:
            await pool.execute("SELECT pg_sleep(30)")
        assert is_outage(cancelled.value)
    finally:
        await pool.close()


async def test_a_session_that_the_server_ends_is_an_outage_and_the_pool_goes_on(database_url: str) -> None:
    pool = await create_pool(DatabaseSettings(url=SecretStr(database_url)), name="test", size=1)
    try:
        with pytest.raises(Exception) as ended:
            await pool.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert is_outage(ended.value)
        assert await pool.fetchval("SELECT 1") == 1
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.CannotConnectNowError(), True),
        (asyncpg.AdminShutdownError(), True),
        (asyncpg.TooManyConnectionsError(), True),
        (asyncpg.DiskFullError(), True),
        (asyncpg.DeadlockDetectedError(), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.UniqueViolationError(), False),
        (asyncpg.UndefinedTableError(), False),
        (asyncpg.DataError(), False),
        (ValueError(), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_is_the_servers_trouble_and_what_is_ours(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


class TestMigrations:
    """From nothing to the newest step, once, whoever asks and however often."""

    async def test_a_new_database_gets_all_steps_even_when_several_ask_at_once(self, database_url: str) -> None:
        with pytest.raises(WrongSchema, match="admin init"):
            await check(database_url)
        await asyncio.gather(*(migrate(database_url) for _ in range(3)))
        await migrate(database_url)
        await check(database_url)
        connection = await asyncpg.connect(database_url)
        try:
            assert await connection.fetchval("SELECT count(*) FROM log.history") == 1
        finally:
            await connection.close()

    async def test_a_database_of_a_newer_build_is_refused_and_left_alone(self, database_url: str) -> None:
        await migrate(database_url)
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("UPDATE log.schema_version SET version_num = '9999'")
            for refused in (check, migrate):
                with pytest.raises(WrongSchema, match="newer"):
                    await refused(database_url)
            assert await connection.fetchval("SELECT version_num FROM log.schema_version") == "9999"
        finally:
            await connection.close()

    async def test_the_tables_are_those_that_the_metadata_describes(self, database_url: str) -> None:
        await migrate(database_url)

        def differences(connection: Connection) -> list[object]:
            options = {"include_schemas": True, "version_table": "schema_version", "version_table_schema": "log"}
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

        engine = create_async_engine(sqlalchemy_url(database_url))
        try:
            async with engine.connect() as connection:
                found = await connection.run_sync(differences)
        finally:
            await engine.dispose()
        # What the database says of itself in comments is not described twice.
        assert [change for change in found if "comment" not in str(change)] == []

    def test_the_newest_step_is_the_one_at_the_head_of_the_line(self) -> None:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", "adapters/migrations")
        assert ScriptDirectory.from_config(config).get_heads() == [newest()]
