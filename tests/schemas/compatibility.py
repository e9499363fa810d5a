"""Whether a published schema still means what was released under its number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

TEXT_ONLY = {"description", "title", "$id", "$schema", "$defs", "properties", "required", "anyOf", "$ref"}


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What the new schema does to readers or records of the old one; nothing, where it only gained optional properties."""
    return sorted(set(_breaks("", old, new, old, new)))


def _breaks(
    place: str, old: dict[str, Any], new: dict[str, Any], old_root: dict[str, Any], new_root: dict[str, Any]
) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    for keyword in sorted((old.keys() | new.keys()) - TEXT_ONLY):
        before, after = old.get(keyword), new.get(keyword)
        if isinstance(before, dict) and isinstance(after, dict) and keyword in {"items", "additionalProperties"}:
            yield from _breaks(f"{place}/{keyword}", before, after, old_root, new_root)
        elif keyword == "prefixItems" and before and after and len(before) == len(after):
            for number, pair in enumerate(zip(before, after, strict=True)):
                yield from _breaks(f"{place}/{number}", *pair, old_root, new_root)
        elif before != after:
            yield f"{place}: {keyword} was {before!r}, is {after!r}"
    for number, (before, after) in enumerate(zip_longest(old.get("anyOf", ()), new.get("anyOf", ()))):
        if before is None or after is None:
            yield f"{place}: another number of choices"
        else:
            yield from _breaks(f"{place}/anyOf/{number}", before, after, old_root, new_root)
    yield from _object_breaks(place, old, new, old_root, new_root)


def _object_breaks(
    place: str, old: dict[str, Any], new: dict[str, Any], old_root: dict[str, Any], new_root: dict[str, Any]
) -> Iterator[str]:
    was, now = set(old.get("required", ())), set(new.get("required", ()))
    yield from (f"{place}: requires {name}" for name in now - was)
    yield from (f"{place}: no longer requires {name}" for name in was - now)
    properties = new.get("properties", {})
    for name, before in old.get("properties", {}).items():
        if name not in properties:
            yield f"{place}/{name}: is gone"
        else:
            yield from _breaks(f"{place}/{name}", before, properties[name], old_root, new_root)


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = {
            **root["$defs"][schema["$ref"].rpartition("/")[2]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    return schema
