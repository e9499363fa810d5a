"""Run by alembic: the connection and its transaction come from `adapters.migrations.migrate`."""

from __future__ import annotations

from alembic import context

from adapters.migrations import VERSION_SCHEMA, VERSION_TABLE
from adapters.migrations.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    version_table=VERSION_TABLE,
    version_table_schema=VERSION_SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
