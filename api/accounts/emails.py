"""E-mail addresses: which texts are one, and when two are the same."""

from __future__ import annotations

import hashlib
import re

LONGEST = 254
"""RFC 5321, 4.5.3.1.3: a path has 256 octets, two of them brackets."""
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=[^@]{{1,64}}@){_LOCAL}@(?:{_LABEL}\.)+(?=[A-Za-z])[A-Za-z0-9-]{{1,62}}[A-Za-z0-9]")


def checked(text: str) -> str:
    """The address itself: a dot-atom at a domain of at least two labels. ValueError for anything else."""
    address = text.strip()
    if len(address) > LONGEST or not _ADDRESS.fullmatch(address):
        raise ValueError("This is no e-mail address.")
    return address


def key(address: str) -> str:
    """What addresses are compared by: case does not count."""
    return address.casefold()


def fingerprint(address: str) -> bytes:
    """A stand-in for an address that may belong to nobody here, so that throttling keeps no list of strangers."""
    return hashlib.sha256(key(address.strip()).encode()).digest()
