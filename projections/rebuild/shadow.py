"""Copies of the live tables, empty and beside them: made from what the database says of the live ones, whatever step it is at.

So constraints, indexes, storage options and rights are those of the live tables, under the same names, and after a swap the
next migration finds what it expects.
"""

from __future__ import annotations

from typing import Any

from projections.tables import CURSORS, HOMES, PROJECTED

_EARLY = frozenset({"datasets_number"})
"""Indexes that folding reads by; the others are made when the rows are there, at a fraction of the cost."""
_OPTIONS = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1::text::regclass"
_CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
 WHERE conrelid = $1::text::regclass AND contype IN ('p', 'u', 'c') ORDER BY conname
"""
_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1::text::regclass AND NOT EXISTS (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid)
 ORDER BY c.relname
"""
_RIGHTS = """
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.privilege_type
  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
 WHERE c.oid = $1::text::regclass AND a.grantee <> c.relowner
"""
_FOUND = "SELECT relname FROM pg_class WHERE relnamespace = $1::text::regnamespace AND relkind = 'r'"
_POSITIONS = "SELECT partition FROM log.cursors WHERE next_offset > 0"


async def create(connection: Any, schema: str) -> None:
    """Empty tables in `schema`, standing at offset 0 of every partition; whatever was in it is dropped."""
    async with connection.transaction():
        await drop(connection, schema)
        for home in (*PROJECTED, CURSORS):
            await _create(connection, home, f"{schema}.{home.partition('.')[2]}")


async def drop(connection: Any, schema: str) -> None:
    """Drop whatever tables are in `schema`."""
    for row in await connection.fetch(_FOUND, schema):
        await connection.execute(f'DROP TABLE {schema}."{row["relname"]}"')


async def is_whole(connection: Any, schema: str) -> bool:
    """Whether all of the tables are there."""
    found = {row["relname"] for row in await connection.fetch(_FOUND, schema)}
    return found >= {*HOMES, "cursors"}


async def finish(connection: Any, schema: str) -> None:
    """The remaining indexes, and the statistics by which the planner chooses them. Doing it twice does no harm."""
    for name, home in HOMES.items():
        for index in await connection.fetch(_INDEXES, home):
            await connection.execute(_pointed(index["definition"], home, f"{schema}.{name}"))
        # Not only for the statistics: readers find every row marked as committed, and write nothing themselves.
        await connection.execute(f"VACUUM (ANALYZE) {schema}.{name}")


async def begin_partitions(connection: Any, schema: str) -> None:
    """A cursor at the beginning for each partition that has been judged and has none yet."""
    await connection.execute(
        f"INSERT INTO {schema}.cursors (partition, next_offset, published, rules, chain)"  # noqa: S608
        f" SELECT partition, 0, 0, 1, decode(repeat('00', 32), 'hex') FROM ({_POSITIONS}) AS judged ON CONFLICT DO NOTHING"
    )


async def _create(connection: Any, home: str, table: str) -> None:
    options = await connection.fetchval(_OPTIONS, home)
    storage = f" WITH ({options})" if options else ""
    await connection.execute(
        f"CREATE TABLE {table} (LIKE {home} INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION"
        f" INCLUDING COMMENTS){storage}"
    )
    for constraint in await connection.fetch(_CONSTRAINTS, home):
        await connection.execute(
            f'ALTER TABLE {table} ADD CONSTRAINT "{constraint["conname"]}" {constraint["definition"]}'
        )
    for index in await connection.fetch(_INDEXES, home):
        if index["relname"] in _EARLY:
            await connection.execute(_pointed(index["definition"], home, table))
    for right in await connection.fetch(_RIGHTS, home):
        await connection.execute(f"GRANT {right['privilege_type']} ON {table} TO {right['grantee']}")
    if comment := await connection.fetchval("SELECT obj_description($1::text::regclass, 'pg_class')", home):
        quoted = await connection.fetchval("SELECT quote_literal($1::text)", comment)
        await connection.execute(f"COMMENT ON TABLE {table} IS {quoted}")


def _pointed(definition: str, home: str, table: str) -> str:
    """The statement that makes the index on another table, unless it has it."""
    made = definition.replace(f" ON {home} ", f" ON {table} ", 1)
    for begun in ("CREATE UNIQUE INDEX ", "CREATE INDEX "):
        if made.startswith(begun):
            return f"{begun}IF NOT EXISTS {made.removeprefix(begun)}"
    raise ValueError(definition)
