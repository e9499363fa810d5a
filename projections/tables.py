"""The tables that are folded from the log, and statements about them that are pointed at a copy of them beside the live ones.

A copy has the same tables, with a position of its own, under the same names in a schema of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache

LIVE = ""
"""No schema of its own: the tables are where everybody reads them."""
NEXT = "next"
"""Where a rebuild makes new ones."""
PREVIOUS = "previous"
"""Where those are kept that the last swap has replaced."""

PROJECTED = (
    "log.requests",
    "read.epochs",
    "read.checkpoints",
    "read.jobs",
    "log.workspaces",
    "read.datasets",
    "read.models",
)
"""In the order in which whoever writes or swaps several of them locks them."""
CURSORS = "log.cursors"
HOMES = {name.partition(".")[2]: name for name in PROJECTED}
"""The live table of each projection, by the projection's name."""
_NAMED = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in (*PROJECTED, CURSORS)))


@lru_cache(maxsize=256)
def in_schema(statement: str, schema: str) -> str:
    """The statement with the tables of that schema in the place of the live ones."""
    if schema == LIVE:
        return statement
    return _NAMED.sub(lambda found: f"{schema}.{found[0].partition('.')[2]}", statement)
