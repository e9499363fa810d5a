"""Rebuilding the read model beside the live one: a generation in each cursor, and where a rebuild keeps its own rows."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_REBUILD = """
ALTER TABLE log.cursors ADD COLUMN generation integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN log.cursors.generation IS 'Rises when the tables of the read model are swapped: who judged on the old ones loses';

CREATE SCHEMA next;
COMMENT ON SCHEMA next IS 'The read model that a rebuild makes beside the live one';
CREATE SCHEMA previous;
COMMENT ON SCHEMA previous IS 'The read model as it was before the last swap, for a rollback';
CREATE SCHEMA rebuild;

CREATE TABLE rebuild.runs (
    id text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('rebuild', 'rollback')),
    projections text NOT NULL,
    dry_run boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'refused', 'compared', 'swapped', 'cancelled')),
    phase text NOT NULL,
    actor text NOT NULL,
    step text NOT NULL,
    cancel boolean NOT NULL,
    report bytea NOT NULL,
    error text,
    started_at bigint NOT NULL,
    ended_at bigint
);
COMMENT ON COLUMN rebuild.runs.step IS 'The step of the schema that its tables were made with';
CREATE INDEX runs_newest ON rebuild.runs (started_at DESC);

CREATE TABLE rebuild.differences (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL REFERENCES rebuild.runs ON DELETE CASCADE,
    projection text NOT NULL,
    what text NOT NULL,
    key text NOT NULL,
    columns text NOT NULL
);
CREATE INDEX differences_run ON rebuild.differences (run, what);
COMMENT ON TABLE rebuild.differences IS 'Live rows, and verdicts, that are not what the log comes to';

CREATE TABLE rebuild.records (
    id text PRIMARY KEY,
    run text NOT NULL,
    value bytea NOT NULL,
    at bigint NOT NULL
);
COMMENT ON TABLE rebuild.records IS 'Records for the log that are not known to be in it yet'
"""


def upgrade() -> None:
    """Make the schemas `next`, `previous` and `rebuild`."""
    for statement in _REBUILD.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """There is no way back: history is not thrown away by a migration."""
    raise NotImplementedError("restore a backup instead")
