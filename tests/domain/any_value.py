"""Any value that a type admits, as JSON would bring it: the strategies behind "every record that decodes"."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
INTEGERS = st.one_of(st.integers(-3, 6), st.integers(-(2**63), 2**63 - 1))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Builtins that convert to the type."""
    match kind:
        case inspect.StructType():
            required = {f.encode_name: values(f.type) for f in kind.fields if f.required}
            optional = {f.encode_name: values(f.type) for f in kind.fields if not f.required}
            return st.fixed_dictionaries(required, optional=optional)
        case inspect.StrType():
            return _text(kind.min_length or 0, kind.max_length)
        case inspect.IntType():
            low, high = -(2**63) if kind.ge is None else kind.ge, 2**63 - 1 if kind.le is None else kind.le
            return st.one_of(st.integers(low, min(high, low + 4)), st.sampled_from([low, high]), st.integers(low, high))
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return ANYTHING
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.UnionType():
            return st.one_of([values(member) for member in kind.types])
        case inspect.DictType():
            size = min(4, kind.max_length or 4)
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=size)
        case inspect.VarTupleType():
            return st.lists(values(kind.item_type), max_size=3)
        case _:
            raise NotImplementedError(kind)


def _text(shortest: int, longest: int | None) -> st.SearchStrategy[str]:
    alphabet = st.characters(codec="utf-8", exclude_characters="\0")
    usual = st.text(alphabet, min_size=shortest, max_size=min(longest or 12, 12))
    return usual if longest is None else st.one_of(usual, st.just("م" * longest))
