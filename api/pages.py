"""Pages of lists: newest first, and the next page by the version of the last row, so pages neither shift nor skip."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Query, Request

from api.errors import invalid

Limit = Annotated[int, Query(ge=1, le=200, description="Rows of a page.")]
Cursor = Annotated[str | None, Query(max_length=100, description="From the Link header of the page before.")]
_PREFIX = b"before:"


def read_cursor(cursor: str | None, *, least: int = 1) -> int | None:
    """The version below which the page begins. Raises 422 for a cursor that we did not make."""
    if cursor is None:
        return None
    try:
        plain = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        number = plain.removeprefix(_PREFIX)
        if plain.startswith(_PREFIX) and number.isdigit() and len(number) < 17 and int(number) >= least:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid(("cursor", "The cursor of a Link header is expected."))


def link(request: Request, version: int) -> dict[str, str]:
    """The header that leads to the page after the row of that version."""
    return next_link(request, base64.urlsafe_b64encode(_PREFIX + str(version).encode()).rstrip(b"=").decode())


def next_link(request: Request, cursor: str) -> dict[str, str]:
    """The header that leads to the next page; relative, so no Host header gets into it."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("cursor", "after")]
    return {"Link": f'<{quote(request.scope["path"])}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}
