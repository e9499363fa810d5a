"""`ravand ps`: what runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ops import registry
from ops.registry import Row
from ops.state_folder import StateFolder

_STYLES = {"running": "green", "starting": "yellow", "stopping": "yellow", "failed": "red"}


def show(folder: Path, *, as_json: bool) -> bool:
    """Prints the processes; whether there are any."""
    rows = registry.read(StateFolder(folder))
    if as_json:
        print(json.dumps([document(row) for row in rows], indent=2))
    elif rows:
        _table(rows)
    else:
        print(f"Nothing runs on {StateFolder(folder).root}. `ravand up --state {folder}` starts it.")
    return bool(rows)


def document(row: Row) -> dict[str, Any]:
    """One row for programs: what does not apply is left out; `pid` is null while a failed one waits for its restart."""
    shown: dict[str, Any] = {"service": row.service, "index": row.index, "pid": row.pid, "state": row.state}
    return shown | {name: value for name, value in (("address", row.address), ("job_id", row.job)) if value}


def _table(rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    for column in ("service", "pid", "state", "address", "job"):
        table.add_column(column, no_wrap=True)
    several = {row.service for row in rows if row.index} | {"worker", "trainer"}
    for row in rows:
        name = f"{row.service} {row.index}" if row.service in several else row.service
        state = f"[{_STYLES.get(row.state, '')}]{row.state}[/]"
        table.add_row(name, str(row.pid or ""), state, row.address or "", row.job or "")
    Console(width=None if console.is_terminal else 200).print(table)
