"""People: the rows behind names and addresses, and what registering makes in one transaction."""

from __future__ import annotations

import asyncpg
import msgspec
import uuid_utils

from api.accounts import emails


class EmailTaken(Exception):
    """Somebody registered with this address before."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user as answers show one."""

    id: str
    email: str
    name: str
    role: str


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A user as a login needs one."""

    user: User
    workspace: str
    password_hash: str


async def add(
    connection: asyncpg.Connection, *, email: str, name: str, password_hash: str, role: str = "user"
) -> Known:
    """A user with a personal workspace and the membership in it; the caller's transaction keeps them together.

    Raises `EmailTaken`.
    """
    user = User(id=str(uuid_utils.uuid7()), email=email, name=name, role=role)
    workspace = str(uuid_utils.uuid7())
    try:
        await connection.execute(_ADD, user.id, email, emails.key(email), name, password_hash, role, workspace)
    except asyncpg.UniqueViolationError:
        raise EmailTaken(email) from None
    return Known(user=user, workspace=workspace, password_hash=password_hash)


async def by_email(connection: asyncpg.Connection | asyncpg.Pool, email: str) -> Known | None:
    """The user with that address, if there is one and may log in."""
    row = await connection.fetchrow(_BY_EMAIL, emails.key(email.strip()))
    return _known(row) if row else None


async def by_id(connection: asyncpg.Connection | asyncpg.Pool, id: str) -> User | None:
    """The user of that id."""
    row = await connection.fetchrow("SELECT id, email, name, role FROM accounts.users WHERE id = $1", id)
    return User(**row) if row else None


def _known(row: asyncpg.Record) -> Known:
    user = User(id=row["id"], email=row["email"], name=row["name"], role=row["role"])
    return Known(user=user, workspace=row["workspace_id"], password_hash=row["password_hash"])


_ADD = """
WITH person AS (
    INSERT INTO accounts.users (id, email, email_key, name, password_hash, role) VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING id),
place AS (INSERT INTO accounts.workspaces (id, name, kind) VALUES ($7, $4, 'personal') RETURNING id)
INSERT INTO accounts.memberships (user_id, workspace_id, role) SELECT person.id, place.id, 'owner' FROM person, place
"""
_BY_EMAIL = """
SELECT u.id, u.email, u.name, u.role, u.password_hash, m.workspace_id
FROM accounts.users u
JOIN accounts.memberships m ON m.user_id = u.id
JOIN accounts.workspaces w ON w.id = m.workspace_id
WHERE u.email_key = $1 AND u.disabled_at IS NULL
ORDER BY (w.kind = 'personal') DESC, w.created_at
LIMIT 1
"""
