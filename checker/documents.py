"""What a readable record is, once more and plainly: JSON that every reader can hold, and the members of each type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container
from typing import Any

PREFIX = "ravand."
MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
RESERVED = ("version", "previous", "at", "job")
Check = Callable[[Any], bool]


class Undecodable(ValueError):
    """Nobody can read the record."""


class UnknownType(ValueError):
    """A well-formed record of a type, or of a schema version, that the rules do not know."""

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document["type"])
        self.document = document


def read(value: bytes | None, *, unknown: Container[str] = ()) -> dict[str, Any]:
    """The record's document. Raises `Undecodable` and `UnknownType`; `unknown` are types that the rules do not know yet."""
    document = _whole(value)
    for name in ("specversion", "id", "type", "source", "subject", "time", "dataschema", "workspace", "actor"):
        _must(name in document and _ENVELOPE[name](document[name]), name)
    _must("data" in document, "data")
    _must(_optional(_text(512))(document.get("requesthash")), "requesthash")
    kind = document["type"].removeprefix(PREFIX)
    if not document["type"].startswith(PREFIX) or kind not in MEMBERS or kind in unknown:
        raise UnknownType(document)
    schema, _, number = document["dataschema"].rpartition(":")
    _must(schema == f"urn:ravand:schemas:{kind}" and number.isdecimal() and len(number) <= 6, "dataschema")
    if int(number) > 1:
        raise UnknownType(document)
    _must(number == "1", "dataschema")  # Neither in other digits nor with zeros before it.
    for name in ("correlationid", "causationid", "traceparent"):
        _must(_optional(_text(512))(document.get(name)), name)
    _must(_record(MEMBERS[kind])(document["data"]), "data")
    return document


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Undecodable(what)


def _whole(value: bytes | None) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise Undecodable(constant)

    if not value or len(value) > MAX_BYTES:
        raise Undecodable("no bytes, or too many")
    try:
        document = json.loads(value.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Undecodable(str(error)) from None
    nodes, depth = [document], 0
    while nodes:
        _must(depth <= MAX_DEPTH, "depth")
        depth += 1
        inside: list[Any] = []
        for node in nodes:
            if isinstance(node, dict):
                inside += [*node.keys(), *node.values()]
            elif isinstance(node, list):
                inside += node
            elif isinstance(node, str):
                _must("\0" not in node and not any("\ud800" <= c <= "\udfff" for c in node), "text")
            elif isinstance(node, float):
                _must(math.isfinite(node), "number")
            elif isinstance(node, int):
                _must(-(2**63) <= node < 2**63, "integer")
        nodes = inside
    _must(isinstance(document, dict), "no object")
    _must(not any(name in document for name in RESERVED), "a reserved member")
    whole: dict[str, Any] = document
    return whole


def _text(longest: int) -> Check:
    return lambda value: isinstance(value, str) and 1 <= len(value) <= longest


def _whole_number(least: int, most: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(least: float = -math.inf, most: float = math.inf) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _record(members: dict[str, Check]) -> Check:
    """An object with these members; one whose name ends in `?` may be missing."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        for name, member in members.items():
            bare = name.rstrip("?")
            if bare in value:
                if not member(value[bare]):
                    return False
            elif bare == name:
                return False
        return True

    return check


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def _one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


def _metrics(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > 256:
        return False
    return all(_text(100)(name) and _number()(number) for name, number in value.items())


_ID, _NAME, _URI, _HASH = _text(128), _text(200), _text(2048), _text(128)
_NATURAL, _ORDINAL, _EPOCH = _whole_number(0, 2**53), _whole_number(1, 2**31 - 1), _whole_number(0, 2**31 - 1)
_PRIORITY = _whole_number(-1000, 1000)
_ENVELOPE: dict[str, Check] = {
    "specversion": lambda value: value == "1.0",
    "id": _ID,
    "type": _text(512),
    "source": _text(512),
    "subject": _ID,
    "time": _text(512),
    "dataschema": _text(512),
    "workspace": _ID,
    "actor": _ID,
}
_REF = _record({"uri": _URI, "sha256": _HASH})
_CHECKPOINT: dict[str, Check] = {
    "attempt": _ORDINAL,
    "epoch": _EPOCH,
    "step": _NATURAL,
    "uri": _URI,
    "sha256": _HASH,
}
_HELD: dict[str, Check] = {"attempt": _ORDINAL, "worker": _NAME}
_REASON = _one_of("lease_expired", "released", "killed", "out_of_memory", "device_error", "checkpoint_unreadable")
_FILE = _record({"name": _NAME, "uri": _URI, "sha256": _HASH, "bytes": _NATURAL})
_PROJECTIONS: dict[str, Check] = {
    "projections": lambda value: _list(_NAME)(value) and len(value) <= 64,
}
MEMBERS: dict[str, dict[str, Check]] = {
    "DatasetRegistered": {
        "name": _NAME,
        "uri": _URI,
        "sha256": _HASH,
        "format": _NAME,
        "bytes": _NATURAL,
        "rows": _NATURAL,
        "profile": _REF,
    },
    "JobRequested": {
        "name": _NAME,
        "recipe": _NAME,
        "recipe_version": _ORDINAL,
        "parameters": lambda value: isinstance(value, dict),
        "epochs": _ORDINAL,
        "dataset": _record({"id": _ID, "uri": _URI, "sha256": _HASH, "format": _NAME}),
        "model": _NAME,
        "max_losses": _ORDINAL,
        "priority?": _PRIORITY,
    },
    "JobStopRequested": {},
    "JobPauseRequested": {},
    "JobResumed": {},
    "JobRetried": {"fresh?": _boolean},
    "PriorityChanged": {"priority": _PRIORITY},
    "AttemptStarted": {**_HELD, "checkpoint?": _optional(_record(_CHECKPOINT))},
    "EpochCompleted": {**_HELD, "epoch": _EPOCH, "metrics": _metrics, "seconds?": _optional(_number(0, 1e9))},
    "CheckpointSaved": {
        **_HELD,
        "epoch": _EPOCH,
        "step": _NATURAL,
        "uri": _URI,
        "sha256": _HASH,
        "best?": _boolean,
    },
    "JobStopped": _HELD,
    "JobPaused": _HELD,
    "AttemptLost": {
        **_HELD,
        "reason": _REASON,
        "checkpoint?": _optional(_record(_CHECKPOINT)),
        "log?": _optional(_REF),
    },
    "ModelRegistered": {**_HELD, "last_epoch": _EPOCH, "model": _NAME, "files": _list(_FILE), "metrics": _metrics},
    "JobCompleted": {**_HELD, "last_epoch": _EPOCH},
    "JobFailed": {**_HELD, "code": _NAME, "exception?": _optional(_NAME), "log?": _optional(_REF)},
    "RulesActivated": {"rules": _ORDINAL},
    "ProjectionsRebuildStarted": _PROJECTIONS,
    "ProjectionsRebuilt": {
        **_PROJECTIONS,
        "records": _NATURAL,
        "rows": _NATURAL,
        "differing_rows": _NATURAL,
        "differing_verdicts": _NATURAL,
    },
    "ProjectionsSwapped": _PROJECTIONS,
    "ProjectionsRolledBack": _PROJECTIONS,
    "ProjectionsRebuildCancelled": _PROJECTIONS,
}
