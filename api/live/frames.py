"""A text message as the bytes that stand on the wire (RFC 6455, 5.2).

A server's frames are not masked, so one byte string serves every client: it is made once per fact, however many listen.
"""

from __future__ import annotations

TEXT = 0x81
"""FIN and the opcode of a text frame."""


def text_frame(payload: bytes) -> bytes:
    """The whole unmasked text frame of a payload that is UTF-8."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT, size)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def payloads(frames: bytes) -> list[bytes]:
    """The payloads of frames that `text_frame` made and somebody joined, for servers that want to frame themselves."""
    found, at = [], 0
    while at < len(frames):
        size, at = frames[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(frames[at : at + width], "big"), at + width
        found.append(frames[at : at + size])
        at += size
    return found
