"""The first administrator is made by whoever runs the machine, never by the API: `ravand admin user`."""

from __future__ import annotations

from adapters.postgres import connect
from adapters.settings import Settings
from api.accounts import emails, people
from api.accounts.passwords import Hasher, weakness
from api.accounts.sessions import CHANNEL
from api.names import checked_name


async def create_admin(settings: Settings, email: str, password: str, name: str) -> str:
    """Make an administrator, or give the role (and this password) to the user with that address; answer the user's id.

    Their running sessions end, since their tokens say otherwise. Raises ValueError with a sentence for what is not taken,
    and what asyncpg raises.
    """
    address, shown = emails.checked(email), checked_name(name)
    weak = weakness(password, email=address, name=shown)
    if weak:
        raise ValueError(weak)
    hasher = Hasher(at_once=1)
    hashed = await hasher.hash(password)
    hasher.close()
    connection = await connect(settings.database, name="admin")
    try:
        async with connection.transaction():
            try:
                async with connection.transaction():
                    known = await people.add(connection, email=address, name=shown, password_hash=hashed, role="admin")
                return known.user.id
            except people.EmailTaken:
                id: str = await connection.fetchval(_PROMOTE, emails.key(address), hashed)
                await connection.execute(_END_SESSIONS, id)
                return id
    finally:
        await connection.close()


_PROMOTE = """
UPDATE accounts.users SET role = 'admin', password_hash = $2, disabled_at = NULL WHERE email_key = $1 RETURNING id
"""
_END_SESSIONS = f"""
WITH ended AS (UPDATE accounts.sessions SET ended_at = now() WHERE user_id = $1 AND ended_at IS NULL RETURNING id)
SELECT pg_notify('{CHANNEL}', id) FROM ended
"""  # noqa: S608 — a constant of ours.
