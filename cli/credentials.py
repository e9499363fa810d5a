"""Where `ravand login` keeps the server's address and the token: one private file of the user."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A server and the token for it."""

    server: str
    token: str
    email: str


def _file() -> Path:
    base = os.environ.get("RAVAND_CONFIG_DIR") or os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "ravand" / "credentials.json"


def load() -> Credentials | None:
    """What the last login kept; None when there was none or the file is not readable as such."""
    try:
        return Credentials(**json.loads(_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def save(credentials: Credentials) -> Path:
    """Keep them, readable by this user alone from the first byte on."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(asdict(credentials), out)
    temporary.replace(file)
    return file


def forget() -> None:
    """Remove what was kept."""
    _file().unlink(missing_ok=True)
