"""Recipes that go wrong, installed for a test as any plugin would be: by an entry point of a distribution."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from recipes.parameters import Parameters
from recipes.training import EpochResult, Interrupted, Ready, Result, TrainingRun
from schemas.recipe import RecipeSpec


class Nothing(Parameters):
    """No parameters."""


def spec(name: str) -> RecipeSpec:
    """The recipe that runs the function of that name in this module."""
    return RecipeSpec(
        name=name,
        version=1,
        title=name,
        description=name,
        formats=frozenset({"csv"}),
        parameters=Nothing,
        train=f"tests.workers.trainer.strange_recipes:{name}",
        predict="",
    )


NAMES = (
    "raises",
    "prints",
    "floods",
    "eats_memory",
    "asks_torch_for_too_much",
    "crashes",
    "is_killed",
    "loses_its_gpu",
    "asks_the_gpu_for_too_much",
    "fails_on_the_gpu",
    "keeps_the_gpu_busy",
    "ends_without_a_model",
    "never_asks",
    "leaves_a_process_behind",
    "works_until_told",
    "tells_for_ever",
    "reads_for_ever",
    "is_not_finite",
)


def __getattr__(name: str) -> RecipeSpec:
    # The entry points name `SPEC_raises` and so on.
    if name.startswith("SPEC_"):
        return spec(name.removeprefix("SPEC_"))
    raise AttributeError(name)


def install(folder: Path) -> None:
    """Make a folder that, on the path, is an installed distribution with these recipes."""
    info = folder / "strange_recipes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-recipes\nVersion: 1.0\n")
    lines = [f"{name} = tests.workers.trainer.strange_recipes:SPEC_{name}" for name in NAMES]
    (info / "entry_points.txt").write_text("[ravand.recipes]\n" + "\n".join(lines) + "\n")


def after(trouble: Callable[[TrainingRun], None]) -> Callable[[TrainingRun], Iterator[Result]]:
    """A training function that gets ready, does one epoch, and then has this trouble."""

    def train(run: TrainingRun) -> Iterator[Result]:
        yield Ready()
        yield EpochResult(1, {"loss": 1.0}, 0.0, True, dict)
        trouble(run)

    return train


def _raise(_run: TrainingRun) -> None:
    raise KeyError("somebody's data")


def _print(_run: TrainingRun) -> None:
    print("from Python")
    print("to the error stream", file=sys.stderr)
    ctypes.CDLL(None).puts("from C: سلام".encode())
    subprocess.run(["echo", "from a process"], check=True)
    os.write(1, b"without an end of line")


def _flood(_run: TrainingRun) -> None:
    for number in range(50_000):
        print("line", number)
    print("the last line")


def _eat(_run: TrainingRun) -> None:
    raise MemoryError


def _ask(_run: TrainingRun) -> None:
    import torch

    torch.empty(2**50)


def _crash(_run: TrainingRun) -> None:
    ctypes.string_at(0)


def _kill(_run: TrainingRun) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _lose(_run: TrainingRun) -> None:
    raise RuntimeError("CUDA error: unspecified launch failure")


def _ask_the_gpu(run: TrainingRun) -> None:
    import torch

    torch.empty(2**45, device=run.device)


def _fail_on_the_gpu(run: TrainingRun) -> None:
    import torch

    table = torch.zeros(4, 4, device=run.device)
    table.index_select(0, torch.tensor([1_000_000], device=run.device)).sum().item()


def _keep_the_gpu_busy(run: TrainingRun) -> None:
    import torch

    matrix = torch.rand(4096, 4096, device=run.device)
    print("busy", flush=True)
    while True:
        matrix = matrix @ matrix


def _nothing(_run: TrainingRun) -> None:
    return


def _block(_run: TrainingRun) -> None:
    signal.pause()


def _leave_behind(_run: TrainingRun) -> None:
    # It inherits standard output, and keeps it open until it is killed with its group.
    started = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    print("started", started.pid)


raises = after(_raise)
prints = after(_print)
floods = after(_flood)
eats_memory = after(_eat)
asks_torch_for_too_much = after(_ask)
crashes = after(_crash)
is_killed = after(_kill)
loses_its_gpu = after(_lose)
asks_the_gpu_for_too_much = after(_ask_the_gpu)
fails_on_the_gpu = after(_fail_on_the_gpu)
keeps_the_gpu_busy = after(_keep_the_gpu_busy)
ends_without_a_model = after(_nothing)
never_asks = after(_block)
leaves_a_process_behind = after(_leave_behind)


def works_until_told(run: TrainingRun) -> Iterator[Result]:
    """Trains for ever, in steps that take no time."""
    steps = 0 if run.state is None else int(run.state["steps"])
    yield Ready()
    print("training", flush=True)
    while steps == 0 or not run.leave():
        steps += 1
    yield Interrupted(0, steps, lambda: {"steps": steps})


def tells_for_ever(_run: TrainingRun) -> Iterator[Result]:
    """Has something to say all the time."""
    yield Ready()
    while True:
        yield EpochResult(1, {"loss": 1.0}, 0.0, True, dict)


def reads_for_ever(_run: TrainingRun) -> Iterator[Result]:
    """Is never ready."""
    print("reading", flush=True)
    signal.pause()
    yield Ready()


def is_not_finite(_run: TrainingRun) -> Iterator[Result]:
    """Reports what JSON has no number for."""
    yield Ready()
    yield EpochResult(1, {"loss": float("nan")}, 0.0, True, dict)
