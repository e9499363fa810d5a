"""The logs that this one was restored from: what they have in common, so that their anchors go on proving it."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table `log.ancestors`."""
    op.execute(
        "CREATE TABLE log.ancestors ("
        " log_id text NOT NULL,"
        " partition integer NOT NULL,"
        " next_offset bigint NOT NULL,"
        " chain bytea NOT NULL,"
        " restored_at timestamptz NOT NULL DEFAULT now(),"
        " PRIMARY KEY (log_id, partition))"
    )
    op.execute(
        "COMMENT ON TABLE log.ancestors IS"
        " 'Up to where the history of each log that this one was restored from is its own; a row for each partition'"
    )


def downgrade() -> None:
    """There is no way back: history is not thrown away by a migration."""
    raise NotImplementedError("restore a backup instead")
