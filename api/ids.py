"""Ids: what can be one. Anything else was never given out, so it is simply not there."""

from __future__ import annotations

import re

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Whether the text has the form of an id of ours: a UUID in lower case."""
    return len(text) == 36 and _ID.fullmatch(text) is not None
