"""Receives a file in a multipart form: into a temporary file, hashed on the way, never whole in memory.

The parser is python-multipart's, fed as bytes come. Limits count the bytes that really come, never what a header claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from adapters.objects import StoreUnavailable
from api.errors import Problem, invalid, malformed, too_large

STALL_SECONDS = 30.0
"""An upload that brings nothing for this long is given up."""
_CHUNK = 1024 * 1024
_FORM_BYTES = 64 * 1024
"""What the form may have beside the file: boundaries, headers, other fields."""
_FIELD_BYTES = 8 * 1024
_PARTS = 16


@dataclass(slots=True)
class Upload:
    """A file that has come whole, and the other fields of its form."""

    path: Path
    filename: str = ""
    bytes: int = 0
    sha256: str = ""
    fields: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def received(request: Request, folder: Path, limit: int) -> AsyncIterator[Upload]:
    """The upload in the request's field `file`; its temporary file in `folder` is gone after the block, whatever happens.

    Raises 413 past `limit` bytes, 422 `malformed` for what is no form with a file, 408, and OSError when the disk is full.
    """
    boundary = _boundary(request)
    path, descriptor = _temporary(folder)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            form = _Form(boundary, file, path, limit)
            await _feed(request, form)
        yield form.finished()
    finally:
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(path.unlink)


def _temporary(folder: Path) -> tuple[Path, int]:
    try:
        descriptor, name = tempfile.mkstemp(prefix="upload-", dir=folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreUnavailable("uploads cannot be received: their folder is away") from error
    return Path(name), descriptor


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise malformed("A multipart form with the field `file` is expected.")
    return boundary


async def _feed(request: Request, form: _Form) -> None:
    """Hand on the body as it comes; writing and hashing happen in a thread, a megabyte at a time."""
    chunks = aiter(request.stream())
    received = 0
    try:
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            received += len(chunk)
            if received > form.limit + _FORM_BYTES:
                raise form.too_large()
            form.parser.write(chunk)
            if len(form.pending) >= _CHUNK:
                await asyncio.to_thread(form.flush)
        form.parser.finalize()
        await asyncio.to_thread(form.flush)
    except TimeoutError:
        raise Problem(408, "request_timeout", "The upload came to a halt. Nothing was kept.") from None
    except ClientDisconnect:
        raise Problem(400, "disconnected", "The client went away. Nothing was kept.") from None
    except FormParserError:
        raise malformed("The multipart form is not well formed.") from None


class _Form:
    """What the parser calls back with, part by part."""

    def __init__(self, boundary: bytes, file: IO[bytes], path: Path, limit: int) -> None:
        self.limit = limit
        self.pending = bytearray()
        self._file = file
        self._hash = hashlib.sha256()
        self._upload = Upload(path)
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._name: str | None = None
        self._value = bytearray()
        self._in_file = self._had_file = self._ended = False
        try:
            self.parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._form_ends,
                },
            )
        except FormParserError:
            raise malformed("The multipart form is not well formed.") from None

    def flush(self) -> None:
        """Write and hash what is pending."""
        chunk, self.pending = self.pending, bytearray()
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]

    def finished(self) -> Upload:
        """The upload, once all has come. Raises 422 when something is missing."""
        if not self._ended:
            raise malformed("The multipart form ends too early.")
        if not self._had_file:
            raise invalid(("file", "This field is required: the file itself."))
        self._upload.sha256 = self._hash.hexdigest()
        return self._upload

    def too_large(self) -> Problem:
        """The answer to a file past the limit."""
        return too_large(f"A file has at most {self.limit} bytes. Nothing was kept.", "dataset_too_large")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _PARTS:
            raise malformed(f"A form has at most {_PARTS} parts.")
        self._name, self._in_file = None, False
        self._value = bytearray()

    def _header_ends(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = (bytearray(), bytearray())
        if name == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            filename = options.get(b"filename")
            if self._name == "file":
                if self._had_file:
                    raise invalid(("file", "One file at a time."))
                self._in_file = self._had_file = True
                self._upload.filename = (filename or b"").decode("utf-8", "replace")

    def _headers_finished(self) -> None:
        if self._name is None:
            raise malformed("A part of the form has no name.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._upload.bytes += end - start
            if self._upload.bytes > self.limit:
                raise self.too_large()
            self.pending += memoryview(data)[start:end]
        else:
            self._value += memoryview(data)[start:end]
            if len(self._value) > _FIELD_BYTES:
                raise invalid((self._name or "", f"A field has at most {_FIELD_BYTES} bytes."))

    def _part_ends(self) -> None:
        if self._in_file or self._name is None:
            return
        try:
            self._upload.fields[self._name] = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise invalid((self._name, "The text is not UTF-8.")) from None

    def _form_ends(self) -> None:
        self._ended = True
