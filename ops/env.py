"""`ravand env`: the settings of a running installation, for another program on this machine."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ops import registry
from ops.errors import OperatorError, explained
from ops.state_folder import StateFolder, read_json


def show(folder: Path, *, as_json: bool) -> None:
    """Prints them, secrets included: as lines for a shell, or as one object."""
    state = StateFolder(folder)
    with explained(state.root):
        settings = read_json(state.environment_file) if registry.read(state) else None
    if not settings:
        raise OperatorError(f"Nothing runs on {state.root}.", f"Start it with `ravand up --state {folder}`.")
    if as_json:
        print(json.dumps(settings, indent=2))
        return
    for name, value in settings.items():
        print(f"{name}={shlex.quote(value)}")
