"""Which passwords everybody tries first.

Lists of leaked passwords are long because people decorate few words in few ways. So the file beside this holds the words
and whole passwords, and the decorations are undone here: letters swapped for digits, what is put before or behind, a word
twice, runs of a keyboard or an alphabet. Only what is *nothing but* such a word is refused; a phrase that contains one is fine.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_SENTENCE = "This is one of the passwords that are tried first. Choose a longer or stranger one."
_SWAPS = str.maketrans(
    {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "!": "i", "+": "t"}
)
_SWAPS_ONE_AS_L = str.maketrans(
    {"0": "o", "1": "l", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "l"}
)
_RUNS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1234567890-=",
    "!@#$%^&*()_+",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp",
    "zaq1xsw2cde3vfr4bgt5nhy6mju7",
    "qweasdzxcrtyfghvbn",
    "qwe123asd456zxc789",
    "147258369741852963",
    "aoeuidhtnsqjkxbmwvz",
)
_EDGE = re.compile(r"^[\W\d_]+|[\W\d_]+$")


@cache
def words() -> frozenset[str]:
    """The words and whole passwords, lower case, from the file beside this."""
    lines = files("api.accounts").joinpath("common_passwords.txt").read_text("utf-8").split()
    return frozenset(lines)


def why_common(password: str, *, email: str = "", name: str = "") -> str | None:
    """A sentence if the password is one that is tried first, or says no more than the account itself; else None."""
    plain = password.casefold()
    if _is_common(plain):
        return _SENTENCE
    local, _, domain = email.casefold().partition("@")
    own = {email.casefold(), local, domain, domain.split(".")[0], name.casefold(), name.casefold().replace(" ", "")}
    if any(len(part) >= 4 and _adds_little(plain, part) for part in own):
        return "The password is your own name or address. Choose one that is not."
    return None


def _is_common(plain: str) -> bool:
    squeezed = re.sub(r"[\s_.\-]+", "", plain)
    if len(set(squeezed)) <= 3 or _is_run(squeezed):
        return True
    if any(text in words() or _block(text) in words() for text in _undecorated(plain) if len(text) >= 3):
        return True
    block = _block(squeezed)
    return block != squeezed and (len(block) <= 4 or _is_run(block))


def _undecorated(plain: str) -> set[str]:
    """The text without what people put around a word, and with the letters that digits and signs stand for."""
    found = {plain, _EDGE.sub("", plain)}
    for swaps in (_SWAPS, _SWAPS_ONE_AS_L):
        found |= {text.translate(swaps) for text in (plain, _EDGE.sub("", plain))}
        found.add(_EDGE.sub("", plain.translate(swaps)))
    block = _block(plain)
    return found | {block, _EDGE.sub("", block)}


def _block(text: str) -> str:
    """What a text is a repetition of: the text itself if of nothing shorter."""
    return text[: (text + text).find(text, 1)] if text else text


def _is_run(text: str) -> bool:
    """Whether the text is cut out of a keyboard, an alphabet or the digits, forwards or backwards, once or in a row of cuts."""
    doubled = [run + run for run in _RUNS]
    return any(text in run or text[::-1] in run for run in doubled) or _is_date(text)


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"(19|20)\d\d[-/.]?[01]\d[-/.]?[0-3]\d|[0-3]\d[-/.]?[01]\d[-/.]?(19|20)\d\d", text))


def _adds_little(plain: str, own: str) -> bool:
    rest = plain.replace(own, "")
    return rest != plain and len(re.sub(r"[\W\d_]", "", rest)) < 4 and len(rest) < 6
