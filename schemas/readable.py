"""What every reader of a document must be able to do with it, whatever its type.

Other languages, databases and viewers read these bytes for years. So text is UTF-8 without NUL (no text column of PostgreSQL
holds it), integers fit 64 bits, numbers are finite, and nesting is bounded by a number of ours: left to a parser's
stack, the same bytes would be readable in one process and not in another.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_DEPTH = 64
_any_decoder = msgspec.json.Decoder()


class Unreadable(ValueError):
    """The bytes are no JSON document that every reader can hold."""


def read_whole(value: bytes) -> Any:
    """The document. Raises `Unreadable` for bytes that are not wholly readable JSON."""
    try:
        document = _any_decoder.decode(value)
    except RecursionError:
        raise Unreadable(f"nested deeper than {MAX_DEPTH}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise Unreadable(str(error)) from None
    nodes = [document]
    for _depth in range(MAX_DEPTH + 1):
        nodes = _children(nodes)
        if not nodes:
            return document
    raise Unreadable(f"nested deeper than {MAX_DEPTH}")


def _children(nodes: list[Any]) -> list[Any]:
    """Everything directly inside of `nodes`, after a look at each of them."""
    inside: list[Any] = []
    for node in nodes:
        match node:
            case str():
                if "\0" in node:
                    raise Unreadable("NUL character in text")
            case dict():
                inside += node.keys()
                inside += node.values()
            case list():
                inside += node
            case bool():
                pass
            case int() if not -(2**63) <= node < 2**63:
                raise Unreadable("integer beyond 64 bits")
    return inside
