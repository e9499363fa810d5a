"""What runs in a training child: one attempt, from `Train` to `ModelWritten`, `Left` or `Failed`.

It knows files and the worker's pipe, and nothing of Kafka. The worker reports what it says.
"""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

from adapters.checkpoint_keys import key_of
from adapters.object_store_blocking import BlockingObjectStore
from recipes import catalog
from recipes.training import (
    Diverged,
    EpochResult,
    Interrupted,
    Metrics,
    Ready,
    StepResult,
    Trained,
    TrainingRun,
)
from workers import checkpoint_files, model_files, trainer_errors, trainer_setup
from workers.child_messages import (
    CheckpointWritten,
    EpochDone,
    Failed,
    Left,
    ModelWritten,
    Prepared,
    StepMeasured,
    Train,
)
from workers.child_pipe import ChildEnd, WorkerGone
from workers.trainer_clock import CheckpointClock, StepClock, now
from workers.trainer_orders import ORPHANED, Orders


def main(pipe: ChildEnd) -> int:
    """Wait for a job and train it; the process's exit code."""
    trainer_setup.warm_up()
    train = pipe.receive()
    if train is None:
        return 0
    assert isinstance(train, Train)
    trainer_setup.set_job_title(train)
    orders = Orders(pipe)
    orders.start()
    try:
        return _attempt(pipe, orders, train)
    except WorkerGone:  # `orders` hears of it too; whichever is first ends the process.
        return ORPHANED


def _attempt(pipe: ChildEnd, orders: Orders, train: Train) -> int:
    try:
        Attempt(pipe, orders, train).run()
    except WorkerGone:
        raise
    except Exception as error:
        code = trainer_errors.code_of(error)
        text = "".join(traceback.format_exception(error))
        pipe.send(Failed(code=code, exception=type(error).__name__, text=trainer_errors.bounded(text)))
        return 1
    return 0


class Attempt:
    """One attempt: gets the data, restores the state, relays what the training function yields."""

    def __init__(self, pipe: ChildEnd, orders: Orders, train: Train) -> None:
        """Nothing is read yet."""
        self._pipe = pipe
        self._orders = orders
        self._train = train
        self._store = BlockingObjectStore(train.store_url)
        start = train.checkpoint
        self._saved = (start.epoch, start.step) if start else (0, 0)

    def run(self) -> None:
        """Train until there is a model, or until told to leave."""
        train = self._train
        spec = catalog.recipe(train.recipe, train.recipe_version)
        parameters = spec.parameters.model_validate(dict(train.parameters))
        device = trainer_setup.set_device(train.device)
        saved = checkpoint_files.read(self._store, train.checkpoint) if train.checkpoint else None
        threads = trainer_setup.set_threads(saved["threads"] if saved else train.threads)
        run = TrainingRun(
            parameters=parameters,
            epochs=train.epochs,
            dataset=trainer_setup.open_dataset(self._store, train.dataset, Path(train.scratch)),
            format=train.dataset.format,  # type: ignore[arg-type]  # The event's text is one of the formats.
            device=device,
            state=saved["training"] if saved else None,
            leave=self._orders.leave,
            logs_now=StepClock(),
        )
        clock = CheckpointClock(getattr(parameters, "checkpoint_every", None), train.epochs)
        for result in catalog.function(spec.train)(run):
            match result:
                case Ready():
                    self._pipe.send(Prepared())
                    self._orders.wait_for_go()
                    clock.start()
                case StepResult(epoch=epoch, step=step, metrics=metrics):
                    self._pipe.send(StepMeasured(epoch=epoch, step=step, metrics=finite(metrics), time=now()))
                case EpochResult(epoch=epoch, metrics=metrics, seconds=seconds, best=best):
                    self._pipe.send(EpochDone(epoch=epoch, metrics=finite(metrics), seconds=seconds))
                    if clock.is_due(epoch):
                        with clock:
                            self._save(epoch, 0, best, threads, result.state_dict())
                case Interrupted(epoch=epoch, step=step):
                    if (epoch, step) != self._saved:
                        self._save(epoch, step, False, threads, result.state_dict())
                    self._pipe.send(Left())
                    return
                case Trained(last_epoch=last_epoch, metrics=metrics):
                    files = model_files.write(self._store, train, result, device)
                    self._pipe.send(ModelWritten(last_epoch=last_epoch, files=files, metrics=finite(metrics)))
                    return
        raise RuntimeError(f"The training function of {spec.name!r} ended without a model.")

    def _save(self, epoch: int, step: int, best: bool, threads: int, state: Any) -> None:
        key = key_of(self._train.job_id, self._train.attempt, epoch, step)
        sha256 = checkpoint_files.write(self._store, key, {"training": state, "threads": threads})
        self._saved = (epoch, step)
        self._pipe.send(CheckpointWritten(epoch=epoch, step=step, uri=key, sha256=sha256, best=best))


def finite(metrics: Metrics) -> dict[str, float]:
    """The figures as plain numbers, or `Diverged`: what goes on the log is JSON, and recipes are anybody's."""
    figures = {str(name): float(value) for name, value in metrics.items()}
    if not all(map(math.isfinite, figures.values())):
        raise Diverged(f"Not every figure is a finite number: {figures}.")
    return figures
