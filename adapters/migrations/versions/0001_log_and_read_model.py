"""The journal of the log, the read model folded from it, and what is measured beside it."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LOG = """
CREATE TABLE log.cursors (
    partition integer PRIMARY KEY,
    next_offset bigint NOT NULL,
    published bigint NOT NULL,
    rules integer NOT NULL,
    chain bytea NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE log.cursors IS 'Where each partition is judged up to; changed only by compare-and-set';

CREATE TABLE log.journal (
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    at bigint NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    workspace text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    version bigint,
    refusal text,
    key bytea,
    value bytea,
    headers bytea,
    tail bytea,
    hash bytea NOT NULL,
    PRIMARY KEY (partition, "offset")
);
COMMENT ON TABLE log.journal IS 'Every record of the log with its verdict; hash chains a partition''s records';
COMMENT ON COLUMN log.journal.headers IS 'Null where they are the two standard copies of type and id';
COMMENT ON COLUMN log.journal.tail IS 'What the fact of an effective record has beyond the record''s own bytes';
-- Values are written once and read seldom: compressing them would cost the hot path more than it saves.
ALTER TABLE log.journal ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX journal_version ON log.journal (workspace, version) WHERE version IS NOT NULL;
CREATE INDEX journal_subject ON log.journal (workspace, subject, partition, "offset");

CREATE TABLE log.requests (
    workspace text NOT NULL,
    id text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    version bigint,
    refusal text,
    requesthash text,
    PRIMARY KEY (workspace, id)
);
COMMENT ON TABLE log.requests IS 'The first occurrence of each request with its verdict; later ones are duplicates';

CREATE TABLE log.workspaces (
    workspace text NOT NULL,
    partition integer NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (workspace, partition)
) WITH (fillfactor = 50);

CREATE TABLE log.history (log_id text PRIMARY KEY);
COMMENT ON TABLE log.history IS 'Names this history: a restored backup is another one';
INSERT INTO log.history VALUES (gen_random_uuid()::text);
"""

_READ = """
CREATE SCHEMA read;

CREATE TABLE read.jobs (
    workspace text NOT NULL,
    job_id text NOT NULL,
    status text NOT NULL,
    priority integer NOT NULL,
    requested_version bigint NOT NULL,
    version bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (workspace, job_id)
) WITH (fillfactor = 70);
CREATE INDEX jobs_newest ON read.jobs (workspace, requested_version DESC);
CREATE INDEX jobs_by_status ON read.jobs (workspace, status, requested_version DESC);
CREATE INDEX jobs_open ON read.jobs (workspace, job_id) WHERE status NOT IN ('completed', 'failed', 'stopped');

CREATE TABLE read.epochs (
    workspace text NOT NULL,
    job_id text NOT NULL,
    attempt integer NOT NULL,
    epoch integer NOT NULL,
    version bigint NOT NULL,
    at bigint NOT NULL,
    metrics bytea NOT NULL,
    PRIMARY KEY (workspace, job_id, attempt, epoch)
);

CREATE TABLE read.checkpoints (
    workspace text NOT NULL,
    job_id text NOT NULL,
    attempt integer NOT NULL,
    epoch integer NOT NULL,
    step bigint NOT NULL,
    uri text NOT NULL,
    sha256 text NOT NULL,
    version bigint NOT NULL,
    struck boolean NOT NULL,
    PRIMARY KEY (workspace, job_id, attempt, epoch, step)
);

CREATE TABLE read.datasets (
    workspace text NOT NULL,
    dataset_id text NOT NULL,
    name text NOT NULL,
    number bigint NOT NULL,
    version bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (workspace, dataset_id)
);
CREATE INDEX datasets_newest ON read.datasets (workspace, version DESC);
CREATE UNIQUE INDEX datasets_number ON read.datasets (workspace, name, number);

CREATE TABLE read.models (
    workspace text NOT NULL,
    name text NOT NULL,
    number bigint NOT NULL,
    version bigint NOT NULL,
    job_id text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (workspace, name, number)
);
CREATE INDEX models_newest ON read.models (workspace, version DESC);
"""

_TELEMETRY = """
CREATE SCHEMA telemetry;

CREATE TABLE telemetry.step_metrics (
    workspace text NOT NULL,
    job_id text NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    at bigint NOT NULL,
    epoch integer NOT NULL,
    step bigint NOT NULL,
    metrics bytea NOT NULL,
    PRIMARY KEY (workspace, job_id, attempt, sequence)
);

CREATE TABLE telemetry.log_lines (
    workspace text NOT NULL,
    job_id text NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    at bigint NOT NULL,
    lines bytea NOT NULL,
    PRIMARY KEY (workspace, job_id, attempt, sequence)
);

CREATE TABLE telemetry.resource_samples (
    workspace text NOT NULL,
    job_id text NOT NULL,
    attempt integer NOT NULL,
    sequence bigint NOT NULL,
    at bigint NOT NULL,
    cpu_percent double precision NOT NULL,
    memory_bytes bigint NOT NULL,
    gpu_percent double precision,
    gpu_memory_bytes bigint,
    PRIMARY KEY (workspace, job_id, attempt, sequence)
);
"""


def upgrade() -> None:
    """Make the schemas `log` (it holds the version table, so it exists), `read` and `telemetry`."""
    for statements in (_LOG, _READ, _TELEMETRY):
        for statement in statements.split(";\n"):
            if statement.strip():
                op.execute(statement)


def downgrade() -> None:
    """There is no way back: history is not thrown away by a migration."""
    raise NotImplementedError("restore a backup instead")
