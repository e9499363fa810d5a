"""The state folder: everything that one installation on one machine has, private to its owner."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ops.errors import OperatorError, explained

FORMAT = 1
# Kafka stops and PostgreSQL panics on a full disk; it is kinder to say so before they start.
ENOUGH_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Secrets:
    """Drawn once; whoever has them has everything that the installation holds."""

    kafka_password: str
    kafka_controller_password: str
    postgres_password: str
    postgres_owner_password: str
    auth_secret: str
    cluster_id: str

    @classmethod
    def drawn(cls) -> Self:
        """New random ones. Letters and digits only: they stand in URLs, JAAS strings and shells."""
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster_id.startswith("-"):  # Kafka refuses those, as they look like an option.
            cluster_id = "A" + cluster_id[1:]
        return cls(
            kafka_password=secrets.token_hex(24),
            kafka_controller_password=secrets.token_hex(24),
            postgres_password=secrets.token_hex(24),
            postgres_owner_password=secrets.token_hex(24),
            auth_secret=secrets.token_hex(48),
            cluster_id=cluster_id,
        )


class StateFolder:
    """Where each thing lies. `open` makes or checks the folder; the properties only name paths."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @classmethod
    def open(cls, root: Path) -> Self:
        """The folder, made if there is none; refused if it is not one of ours or of a newer version."""
        state = cls(root)
        with explained(state.root):
            state.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            state._check_version()
            state.root.chmod(0o700)
            for folder in (state.logs, state.run, state.kafka, state.postgres, state.objects):
                folder.mkdir(mode=0o700, exist_ok=True)
        return state

    @property
    def kafka(self) -> Path:
        """The first broker's log and settings."""
        return self.broker(0)

    def broker(self, index: int) -> Path:
        """A broker's log and settings."""
        return self.root / (f"kafka-{index}" if index else "kafka")

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data."""
        return self.root / "postgres"

    @property
    def objects(self) -> Path:
        """The object store."""
        return self.root / "objects"

    @property
    def logs(self) -> Path:
        """What the processes say, bounded."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets and notes of running processes; worth nothing once they are gone."""
        return self.root / "run"

    @property
    def services_file(self) -> Path:
        """What runs now, for `ravand ps`."""
        return self.root / "services.json"

    @property
    def initialised(self) -> Path:
        """Exists once topics and tables were made."""
        return self.root / "initialised"

    @property
    def environment_file(self) -> Path:
        """The settings that the services were given, for `ravand env`."""
        return self.root / "environment.json"

    def _check_version(self) -> None:
        file = self.root / "version"
        if file.exists():
            found = file.read_text().strip()
            if not found.isdigit() or int(found) > FORMAT:
                raise OperatorError(
                    f"{self.root} was written by a newer version of Ravand (format {found}; this one knows {FORMAT}).",
                    "Install that version or a later one, or choose another folder with --state.",
                )
            return
        # A log may be there already: what starts us often sends our output there.
        files = (path for path in self.root.iterdir() if path.name not in {"lost+found", "lock"})
        strangers = sorted(path.name for path in files if path.suffix != ".log")
        if strangers:
            raise OperatorError(
                f"{self.root} is not a state folder: it holds other files ({strangers[0]}, …).",
                "Choose an empty folder, or one that does not exist yet, with --state.",
            )
        replace(file, f"{FORMAT}\n")

    def require_space(self) -> None:
        """Refuses to start on a disk that is as good as full."""
        with explained(self.root):
            stat = os.statvfs(self.root)
        free = stat.f_bavail * stat.f_frsize
        if free < ENOUGH_BYTES:
            raise OperatorError(
                f"The disk that holds {self.root} is full: {free // 2**20} MiB are left.",
                f"Free at least {ENOUGH_BYTES // 2**20} MiB on it, or choose another folder with --state.",
            )

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Only one `ravand up` per folder. The lock is the kernel's, so none outlives its process."""
        with explained(self.root):
            file = (self.root / "lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise OperatorError(
                    f"{self.root} is in use by a `ravand up` that runs already (process {file.read().strip() or '?'}).",
                    "Stop that one first, or choose another folder with --state.",
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def secrets(self) -> Secrets:
        """Those of this folder; drawn at the first call."""
        file = self.root / "secrets.json"
        if not file.exists():
            if any(self.kafka.iterdir()) or any(self.postgres.iterdir()):
                raise OperatorError(
                    f"{file} is missing, and only it holds the passwords of the data in {self.root}.",
                    "Put back the copy of it that belongs to this folder.",
                )
            replace(file, json.dumps(asdict(Secrets.drawn()), indent=2))
        try:
            return Secrets(**json.loads(file.read_text()))
        except (TypeError, ValueError) as error:
            raise OperatorError(
                f"{file} cannot be read: {error}.", "Put back the copy of it that belongs to this folder."
            ) from error

    def brokers(self, asked: int | None) -> int:
        """How many brokers keep this folder's log: as asked for when the log is made, and never another number."""
        file = self.root / "brokers"
        made = [path for path in self.root.glob("kafka*/data") if path.is_dir()]
        known = int(file.read_text()) if made and file.exists() else 1 if made else None
        count = asked or known or 1
        if known is not None and count != known:
            raise OperatorError(
                f"The log in {self.root} is kept by {'one broker' if known == 1 else f'{known} brokers'};"
                f" --brokers {count} cannot change that.",
                "Start without --brokers to go on with it, or choose another folder with --state.",
            )
        if known is None:
            replace(file, f"{count}\n")
        return count

    def ports(self) -> dict[str, int]:
        """The ports of earlier starts, which other programs may have noted."""
        try:
            return dict(json.loads((self.root / "ports.json").read_text()))
        except FileNotFoundError:
            return {}

    def remember_ports(self, ports: Mapping[str, int]) -> None:
        """Keeps them for the next start."""
        replace(self.root / "ports.json", json.dumps(dict(ports)))


def replace(file: Path, text: str, *, sync: bool = True) -> None:
    """Writes a private file that is, at every moment, either the old one or the new one; with `sync` after a power cut too."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with explained(file):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        temporary.replace(file)


def read_json(file: Path) -> Any:
    """A file that `replace` wrote; none if there is none yet."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
