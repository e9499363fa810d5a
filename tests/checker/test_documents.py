"""The checker's own reading of records agrees with the platform's, though they share no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.documents import Undecodable, read
from checker.documents import UnknownType as UnknownToTheChecker
from schemas.envelope import UndecodableRecord, UnknownType, decode, encode
from tests.schemas.examples import STORY, example
from tests.schemas.test_envelope import BAD

RECORDS = {name: encode(example(name)) for name in STORY}
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    3,
    2**31,
    2**53 + 1,
    2**63,
    2**70,
    0.5,
    "",
    "x",
    "x" * 600,
    "\0",
    [],
    {},
    {"a": 1},
]
TEXTS = [b"1e999", b"NaN", b"Infinity", b'"\\ud800"', b'"\\u0000"', b"\xff", b"[" * 100 + b"]" * 100, b"-0", b"01"]


def ours(value: bytes | None) -> str:
    try:
        decode(value)
    except UnknownType:
        return "unknown"
    except UndecodableRecord:
        return "undecodable"
    return "read"


def theirs(value: bytes | None) -> str:
    try:
        read(value)
    except UnknownToTheChecker:
        return "unknown"
    except Undecodable:
        return "undecodable"
    return "read"


def paths(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a document lies."""
    yield at
    if isinstance(node, dict):
        for name, value in node.items():
            yield from paths(value, (*at, name))
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from paths(value, (*at, index))


def changed(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[at[0]] = changed(document[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("kind", RECORDS)
def test_every_type_is_read(kind: str) -> None:
    assert ours(RECORDS[kind]) == theirs(RECORDS[kind]) == "read"


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_decoded_is_told(case: str) -> None:
    assert ours(BAD[case]) == theirs(BAD[case]) == "undecodable"


@pytest.mark.parametrize("kind", RECORDS)
def test_any_value_in_any_place_is_judged_the_same(kind: str) -> None:
    document = json.loads(RECORDS[kind] or b"")
    for at in paths(document):
        for value in VALUES:
            other = json.dumps(changed(document, at, value)).encode()
            assert ours(other) == theirs(other), (at, value)
        for text in TEXTS:
            other = json.dumps(changed(document, at, "HERE")).encode().replace(b'"HERE"', text)
            assert ours(other) == theirs(other), (at, text)


@pytest.mark.parametrize("kind", RECORDS)
def test_any_missing_or_further_member_is_judged_the_same(kind: str) -> None:
    document = json.loads(RECORDS[kind] or b"")
    for at in paths(document):
        if at and isinstance(at[-1], str):
            parent = document
            for step in at[:-1]:
                parent = parent[step]
            less = json.dumps(changed(document, at[:-1], {k: v for k, v in parent.items() if k != at[-1]})).encode()
            assert ours(less) == theirs(less), at
    for name in ("version", "job", "extra", "", "correlationid", "requesthash"):
        for value in VALUES:
            more = json.dumps({**document, name: value}).encode()
            assert ours(more) == theirs(more), (name, value)


@given(st.sampled_from(list(RECORDS)), st.data())
@settings(max_examples=300)
def test_damaged_bytes_are_judged_the_same(kind: str, data: st.DataObject) -> None:
    value = bytearray(RECORDS[kind] or b"")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(value)))
        end = min(len(value), start + data.draw(st.integers(0, 12)))
        value[start:end] = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\\u0000", b"1e999", b'"'])))
    assert ours(bytes(value)) == theirs(bytes(value))
