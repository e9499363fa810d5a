"""What the worker orders while a child trains, heard by a thread of its own so that training need not listen."""

from __future__ import annotations

import contextlib
import os
import threading

from workers.child_messages import Go, Leave, Left
from workers.child_pipe import ChildEnd, WorkerGone

ORPHANED = 3
"""The exit code of a child whose worker is gone."""


class Orders(threading.Thread):
    """Hears `Go` and `Leave`, and ends the process at once when the worker is gone."""

    def __init__(self, pipe: ChildEnd) -> None:
        """Not started yet."""
        super().__init__(name="orders", daemon=True)
        self._pipe = pipe
        self._go = threading.Event()
        self._leave = False
        self._trains = False
        self._deciding = threading.Lock()

    def leave(self) -> bool:
        """Whether to leave. Asked at every step, so it must cost nothing."""
        return self._leave

    def wait_for_go(self) -> None:
        """Until the attempt is granted. From then on there is something to lose."""
        self._go.wait()
        with self._deciding:
            self._trains = True

    def run(self) -> None:
        """Listen until the process ends."""
        while True:
            match self._pipe.receive():
                case Go():
                    self._go.set()
                case Leave():
                    self._leave_or_end()
                case None:
                    os._exit(ORPHANED)
                case _:
                    continue

    def _leave_or_end(self) -> None:
        with self._deciding:
            if not self._trains:  # It reads data, perhaps for long: nothing was trained, so there is nothing to save.
                with contextlib.suppress(WorkerGone):
                    self._pipe.send(Left())
                os._exit(0)
            self._leave = True
