"""The training function: sums up epochs, waits for permits, and does its deed."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from recipes.training import (
    Diverged,
    EpochResult,
    Interrupted,
    Ready,
    Result,
    StepResult,
    Trained,
    TrainingRun,
    UnusableData,
)


def train(run: TrainingRun) -> Iterator[Result]:
    """Epoch n adds n to a total, which is the state; the loss is made from it."""
    began = time.time()
    wanted = run.parameters
    state = dict(run.state or {"epoch": 0, "total": 0, "step": 0})
    yield Ready()
    went = time.time()
    for epoch in range(state["epoch"] + 1, run.epochs + 1):
        while not _may_begin(wanted.permits, epoch):
            if run.leave():
                state["step"] += 1
                yield Interrupted(epoch - 1, state["step"], state.copy)
                return
            time.sleep(0.01)
        epoch_began = time.monotonic()
        state = {"epoch": epoch, "total": state["total"] + epoch, "step": state["step"] + 1}
        for number in range(wanted.lines):
            print(f"epoch {epoch} line {number}")
        yield StepResult(epoch, state["step"], {"loss": 1 / epoch})
        metrics = {"loss": 1 / epoch, "total": float(state["total"]), "began": began, "went": went}
        if wanted.deed == "long_name" and epoch > wanted.after_epoch:
            metrics["x" * 300_000] = 1.0
        yield EpochResult(epoch, metrics, time.monotonic() - epoch_began, True, state.copy)
        if epoch == wanted.after_epoch:
            _do(wanted.deed)
        if run.leave():
            yield Interrupted(epoch, 0, state.copy)
            return
    yield Trained(run.epochs, {"loss": 1 / run.epochs, "total": float(state["total"])}, run.epochs, _weights(state), {})


def _may_begin(permits: str | None, epoch: int) -> bool:
    if permits is None:
        return True
    try:
        return int(Path(permits).read_text() or 0) >= epoch
    except (FileNotFoundError, ValueError):
        return False


def _weights(state: dict[str, int]) -> dict[str, torch.Tensor]:
    return {"total": torch.tensor([float(state["total"])])}


def _do(deed: str) -> None:
    match deed:
        case "raise":
            print("about to go wrong")
            raise ValueError("a secret of the data: vier-sieben-elf")
        case "unusable":
            raise UnusableData("nothing to learn")
        case "diverge":
            raise Diverged("the loss is no number")
        case "kill":
            print("about to be killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "out_of_memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, resource.RLIM_INFINITY))
            torch.zeros(2**30)
        case "hang":
            while True:
                time.sleep(1)


def predict(*_arguments: object) -> None:
    """Nobody asks."""
    raise NotImplementedError
