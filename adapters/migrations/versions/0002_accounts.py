"""Accounts: rows that can be erased, never events. The log knows people by opaque ids only."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ACCOUNTS = """
CREATE SCHEMA accounts;

CREATE TABLE accounts.users (
    id text PRIMARY KEY,
    email text NOT NULL,
    email_key text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'admin')),
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);
CREATE UNIQUE INDEX users_email ON accounts.users (email_key);
COMMENT ON COLUMN accounts.users.email_key IS 'The address as it is compared: without case';

CREATE TABLE accounts.workspaces (
    id text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('personal', 'team')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE accounts.memberships (
    user_id text NOT NULL REFERENCES accounts.users ON DELETE CASCADE,
    workspace_id text NOT NULL REFERENCES accounts.workspaces ON DELETE CASCADE,
    role text NOT NULL CHECK (role IN ('owner', 'member')),
    PRIMARY KEY (user_id, workspace_id)
);
CREATE INDEX memberships_workspace ON accounts.memberships (workspace_id);

CREATE TABLE accounts.sessions (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES accounts.users ON DELETE CASCADE,
    workspace_id text NOT NULL REFERENCES accounts.workspaces ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX sessions_user ON accounts.sessions (user_id);
CREATE INDEX sessions_workspace ON accounts.sessions (workspace_id);
CREATE INDEX sessions_expiry ON accounts.sessions (expires_at);

CREATE TABLE accounts.tickets (
    hash bytea PRIMARY KEY,
    session_id text NOT NULL REFERENCES accounts.sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);
CREATE INDEX tickets_session ON accounts.tickets (session_id);
COMMENT ON TABLE accounts.tickets IS 'Single-use passes to a socket; the hash, so that a reader of the table holds none';

CREATE TABLE accounts.login_failures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email_hash bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX login_failures_email ON accounts.login_failures (email_hash, at);
CREATE INDEX login_failures_at ON accounts.login_failures (at);
COMMENT ON TABLE accounts.login_failures IS 'Failed logins of the last minutes'
"""


def upgrade() -> None:
    """Make the schema `accounts`."""
    for statement in _ACCOUNTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """There is no way back: accounts are not thrown away by a migration."""
    raise NotImplementedError("restore a backup instead")
