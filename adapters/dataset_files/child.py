"""The child process that looks at one uploaded file, within limits of the operating system, and exits.

It says READY once everything is imported, reads one request from its input, writes one reply. It knows no secret and no
server: its environment and its open files are its parent's gift.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from io import BytesIO
from pathlib import Path

import msgspec

from adapters.dataset_files.child_protocol import READY, Reply, Request
from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import Limits

_UNREADABLE = Reply(code="unreadable", message="The file cannot be read.")


def main() -> None:
    """Serve one request."""
    # Our pipe gets a number of its own: whatever a library prints must not end up in the reply.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        _warm_up()
        out.write(READY)
        out.flush()
        line = sys.stdin.buffer.readline()
        if not line:
            return  # The parent has no file for us, or is gone.
        request = msgspec.json.decode(line, type=Request)
        _confine(request)
        out.write(msgspec.json.encode(_reply(request)))


def _warm_up() -> None:
    """Import what every format needs, and let polars make its threads, before there is a file that waits."""
    from adapters.dataset_files import csv, opening
    from adapters.dataset_files.describe import columns_of

    assert opening
    columns_of(csv.table_of(BytesIO(b"a,b,c\n1,0.5,x\n2,,y\n"), Limits(), compact=True))


def _confine(request: Request) -> None:
    limits, seconds = request.limits, request.seconds
    for kind, bound in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, 2 * seconds),
        (resource.RLIMIT_FSIZE, 2 * limits.unpacked_bytes),  # Temporary files; UTF-16 may grow by half.
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))
    signal.alarm(seconds)  # In case the parent is gone and nobody else ends us.


def _reply(request: Request) -> Reply:
    from adapters.dataset_files import opening

    try:
        return Reply(profile=opening.profile(Path(request.path), request.filename, request.limits))
    except UnreadableDataset as error:
        return Reply(code=error.code, message=error.message, row=error.row, byte=error.byte)
    except DatasetTooLarge as error:
        return Reply(message=error.message)
    except MemoryError:
        return Reply(message="Reading the file takes more memory than is allowed.")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Reply(errno=error.errno)
        return _UNREADABLE
    except BaseException:  # A decoder's panic is no Exception; whatever it was, the file made it happen.
        return _UNREADABLE
