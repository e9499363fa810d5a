"""`python -m ops.dev_servers DIR`: only the broker and the database, in the foreground, for tests and for development.

Prints the settings with which to join them, one per line, then `ready`. With `--while-locked FILE` it ends by itself
when no other process holds a shared lock on that file: the processes of one test run share a pair of servers like this,
and however they end, the kernel lets go of their locks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import IO

from ops.embedded import AskedPorts, choose_ports, kafka_of, postgres_of, together
from ops.errors import OperatorError
from ops.keeper import Keeper
from ops.state_folder import StateFolder


async def serve(folder: Path, *, durable: bool, while_locked: Path | None, temporary: bool = False) -> None:
    """Runs both until a signal, or until the lock is free; a temporary folder is removed then."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    if while_locked is not None:
        file = while_locked.open("a")
        threading.Thread(target=_when_unlocked, args=(file, loop, end), daemon=True).start()
    state = StateFolder.open(folder)
    with state.exclusively():
        ports = choose_ports(state, AskedPorts())
        kafka, postgres = kafka_of(state, ports, _note), postgres_of(state, ports, durable=durable)
        keepers = [Keeper(kafka, state.logs, say=_note), Keeper(postgres, state.logs, say=_note)]
        try:
            await together(keeper.start() for keeper in keepers)
            settings = kafka.client_settings() | {"RAVAND_DATABASE__URL": postgres.url()}
            settings["RAVAND_DATABASE_ADMIN_URL"] = postgres.admin_url()
            print(*(f"{name}={value}" for name, value in settings.items()), "ready", sep="\n", flush=True)
            await end.wait()
        finally:
            await asyncio.gather(*(keeper.stop() for keeper in keepers))
            if temporary:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _when_unlocked(file: IO[str], loop: asyncio.AbstractEventLoop, end: asyncio.Event) -> None:
    fcntl.flock(file, fcntl.LOCK_EX)  # Kept until we are gone, so that nobody new relies on servers that are ending.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end.set)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ops.dev_servers", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the state folder")
    parser.add_argument("--volatile", action="store_true", help="do not wait for the disk; a power cut loses the data")
    parser.add_argument("--while-locked", type=Path, metavar="FILE", help="end when no process holds a lock on it")
    parser.add_argument("--temporary", action="store_true", help="remove the folder at the end")
    options = parser.parse_args()
    serving = serve(
        options.folder,
        durable=not options.volatile,
        while_locked=options.while_locked,
        temporary=options.temporary,
    )
    try:
        asyncio.run(serving)
    except OperatorError as error:
        _note(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
