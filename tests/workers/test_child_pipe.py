"""What a training child finds out through its pipe: that nobody reads what it sends any more."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.workers.orders import TRAIN
from workers import trainer, trainer_setup
from workers.child_messages import Prepared, Train
from workers.child_pipe import ChildEnd, WorkerGone
from workers.trainer_orders import ORPHANED


def test_who_sends_to_a_worker_that_is_gone_is_told() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        child = ChildEnd(theirs)
        child.send(Prepared())
        ours.close()
        with pytest.raises(WorkerGone):
            child.send(Prepared())
        assert child.receive() is None


@pytest.mark.parametrize("told", ["what it trained", "that it failed"])
def test_a_child_that_finds_out_by_telling_ends_as_an_orphan(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """And not as one that failed, whichever of its threads finds out first."""

    class Alone(ChildEnd):
        def receive(self) -> Train:
            return TRAIN

    class Telling:
        def __init__(self, pipe: ChildEnd, *_: object) -> None:
            self._pipe = pipe

        def run(self) -> None:
            if told == "that it failed":
                raise KeyError("something of the recipe's")
            self._pipe.send(Prepared())

    monkeypatch.setattr(trainer_setup, "warm_up", lambda: None)
    monkeypatch.setattr(trainer_setup, "set_job_title", lambda train: None)
    monkeypatch.setattr(trainer, "Orders", lambda pipe: threading.Thread())
    monkeypatch.setattr(trainer, "Attempt", Telling)
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert trainer.main(Alone(theirs)) == ORPHANED
