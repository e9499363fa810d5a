"""Names that people give to things: one rule for all, so that no name is a path, a header or a trick on the eye."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 200
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Controls that turn the order of what follows; U+200C and the like, which Persian needs, are fine."""


def checked_name(text: str) -> str:
    """The name in one Unicode form, without space around it. ValueError says what is wrong with it."""
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise ValueError("A name has at least one character.")
    if len(name) > LONGEST:
        raise ValueError(f"A name has at most {LONGEST} characters.")
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Co", "Zl", "Zp") or sign in _TURNING for sign in name):
        raise ValueError("A name has no control characters.")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError("A name has no slashes and is no path.")
    return name


Name = Annotated[str, AfterValidator(checked_name)]
"""For the models of bodies."""


def name_of_file(filename: str) -> str | None:
    """The last part of a file's name as a name, or None if nothing is left that is one."""
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    try:
        return checked_name(last)
    except ValueError:
        return None


def without_ending(name: str) -> str:
    """`iris.csv` is called `iris`; `.csv` stays as it is."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and stem and ending.isalnum() and len(ending) <= 10 else name
