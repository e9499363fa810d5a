"""Snapshots of jobs for time travel, and the seals of the hash chain."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AUDIT = """
CREATE SCHEMA audit;

CREATE TABLE audit.job_states (
    workspace text NOT NULL,
    job_id text NOT NULL,
    version bigint NOT NULL,
    "offset" bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (workspace, job_id, version)
);
COMMENT ON TABLE audit.job_states IS 'Jobs as they once were; derived from the journal, may be emptied at any time';

CREATE TABLE audit.snapshots (
    workspace text PRIMARY KEY,
    version bigint NOT NULL
);
COMMENT ON TABLE audit.snapshots IS 'Up to which version each workspace has its snapshots';

CREATE TABLE audit.seals (
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    log_id text NOT NULL,
    chain bytea NOT NULL,
    at bigint NOT NULL,
    signature bytea NOT NULL,
    PRIMARY KEY (partition, next_offset, log_id)
);
COMMENT ON TABLE audit.seals IS 'Heads of the hash chain, signed with a key that is not in this database'
"""


def upgrade() -> None:
    """Make the schema `audit`."""
    for statement in _AUDIT.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """There is no way back: history is not thrown away by a migration."""
    raise NotImplementedError("restore a backup instead")
