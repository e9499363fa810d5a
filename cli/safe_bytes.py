"""Bytes of unknown origin on a terminal: nothing in them moves the cursor, changes a color, or hides what follows."""

from __future__ import annotations

from collections.abc import Iterator

_ROW = 16
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(data: bytes) -> str:
    """The bytes as one line of text. What is no printable character of UTF-8 stands as an escape, as in Python's bytes."""
    return "".join(map(_character, data.decode(errors="surrogateescape")))


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # A byte that is no UTF-8.
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:  # Above, two digits mean a byte.
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def is_text(data: bytes) -> bool:
    """Whether people can read it: mostly printable characters."""
    text = data.decode(errors="surrogateescape")
    readable = sum(character.isprintable() or character in "\n\r\t" for character in text)
    return readable * 10 >= len(text) * 9


def dump(data: bytes) -> Iterator[str]:
    """Lines of position, hexadecimal digits, and the ASCII among them."""
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<{3 * _ROW}} |{shown}|"
