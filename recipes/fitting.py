"""The training loop, from the first epoch to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from recipes import random_state
from recipes.objectives import Objective
from recipes.parameters import LoopParameters, automatic_batch_size
from recipes.progress import Progress
from recipes.training import Diverged, EpochResult, Interrupted, Ready, Result, StepResult, Trained, TrainingRun


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows in tensors, on the device that trains: what the model sees, and what it should say."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, chosen: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the chosen rows."""
        return tuple(tensor.index_select(0, chosen) for tensor in self.inputs)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learned: a recipe prepares it, `fit` works through it."""

    model: nn.Module
    """Already on its device; called with a batch of the examples' inputs."""
    objective: Objective
    training: Examples
    validation: Examples | None
    manifest: Mapping[str, Any]
    """What prediction will need beside the weights."""
    augment: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None
    """Changes the inputs of a training batch at random."""
    evaluation_batch: int = 4096


def fit(run: TrainingRun, parameters: LoopParameters, lesson: Lesson) -> Iterator[Result]:
    """Train epoch by epoch, and yield what came of it. The random numbers are seeded before the lesson is made."""
    model = lesson.model
    batch_size = parameters.batch_size or automatic_batch_size(len(lesson.training))
    optimizer = make_optimizer(model, parameters)
    progress = Progress()
    if run.state is not None:
        progress = Progress.from_state_dict(run.state["progress"], run.device)
        model.load_state_dict(run.state["model"])
        optimizer.load_state_dict(run.state["optimizer"])
        random_state.load_state_dict(run.state["random"])

    def state_dict() -> dict[str, Any]:
        return {
            "progress": progress.state_dict(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random_state.state_dict(),
        }

    yield Ready()
    while progress.epoch < run.epochs and not out_of_patience(progress, parameters):
        started = perf_counter()
        rate = learning_rate(parameters, progress, run.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        finished = yield from train_epoch(run, parameters, lesson, optimizer, progress, batch_size)
        metrics = epoch_metrics(run, lesson, progress, batch_size) if finished else None
        if metrics is None:
            yield Interrupted(epoch=progress.epoch, step=progress.step, state_dict=state_dict)
            return
        metrics["learning_rate"] = rate
        if not all(map(math.isfinite, metrics.values())):
            raise Diverged(f"Epoch {progress.epoch + 1} gave {metrics}. A lower learning rate may help.")
        best = progress.complete(metrics, watched=metrics.get("val_loss", metrics["loss"]))
        if best and parameters.patience is not None:
            progress.best_weights = weights_of(model)
        yield EpochResult(progress.epoch, metrics, perf_counter() - started, best, state_dict)

    kept = progress.best_weights
    yield Trained(
        last_epoch=progress.epoch,
        metrics=progress.last_metrics if kept is None else progress.best_metrics,
        best_epoch=progress.epoch if kept is None else progress.best_epoch,
        weights=finite(weights_of(model) if kept is None else kept),
        manifest=lesson.manifest,
    )


def train_epoch(
    run: TrainingRun,
    parameters: LoopParameters,
    lesson: Lesson,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    batch_size: int,
) -> Generator[Result, None, bool]:
    """One pass over the training rows, from wherever the epoch stands; false when it was told to leave."""
    model, objective, examples = lesson.model, lesson.objective, lesson.training
    epoch = progress.epoch + 1
    model.train()
    if progress.order is None:
        progress.order = torch.randperm(len(examples)).to(run.device)
    for batch in batches(progress.order, batch_size)[progress.step :]:
        if run.leave():
            return False
        inputs = examples.rows(batch)
        if lesson.augment is not None:
            inputs = lesson.augment(inputs)
        output = model(*inputs)
        loss = objective.loss(output, examples.targets.index_select(0, batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if parameters.clip_gradients is not None:
            nn.utils.clip_grad_norm_(model.parameters(), parameters.clip_gradients)
        optimizer.step()
        progress.steps += 1
        progress.losses.append(loss.detach())
        progress.guesses.append(objective.guess(output.detach()))
        if run.logs_now():
            value = loss.item()
            if not math.isfinite(value):
                raise Diverged(f"The loss of step {progress.steps} is {value}. A lower learning rate may help.")
            rate = optimizer.param_groups[0]["lr"]
            yield StepResult(epoch, progress.steps, {"loss": value, "learning_rate": rate})
    return True


def epoch_metrics(run: TrainingRun, lesson: Lesson, progress: Progress, batch_size: int) -> dict[str, float] | None:
    """What the epoch under way has come to; None when told to leave before that is known."""
    objective, examples = lesson.objective, lesson.training
    assert progress.order is not None
    # A batch's loss is a mean, and the last batch may be smaller.
    sizes = torch.tensor([len(batch) for batch in batches(progress.order, batch_size)], dtype=torch.float64)
    losses = torch.stack(progress.losses).double().cpu()
    metrics = {"loss": float((losses * sizes).sum() / sizes.sum())}
    if not math.isfinite(metrics["loss"]):
        raise Diverged(f"The loss of epoch {progress.epoch + 1} is {metrics['loss']}. A lower learning rate may help.")
    metrics |= objective.figures(torch.cat(progress.guesses), examples.targets.index_select(0, progress.order))
    if lesson.validation is not None:
        measured = evaluate(run, lesson, lesson.validation)
        if measured is None:
            return None
        metrics |= {f"val_{name}": value for name, value in measured.items()}
    return metrics


@torch.inference_mode()
def evaluate(run: TrainingRun, lesson: Lesson, examples: Examples) -> dict[str, float] | None:
    """The loss and the figures on rows that are not trained on; None when told to leave."""
    lesson.model.eval()
    total, guesses = torch.zeros((), dtype=torch.float64, device=run.device), []
    for batch in batches(torch.arange(len(examples), device=run.device), lesson.evaluation_batch):
        if run.leave():
            return None
        output = lesson.model(*examples.rows(batch))
        total += lesson.objective.loss(output, examples.targets.index_select(0, batch)) * len(batch)
        guesses.append(lesson.objective.guess(output))
    return {"loss": float(total) / len(examples), **lesson.objective.figures(torch.cat(guesses), examples.targets)}


def batches(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """The row numbers in stretches of that size; the last one may be shorter."""
    return torch.split(rows, size)


def make_optimizer(model: nn.Module, parameters: LoopParameters) -> torch.optim.Optimizer:
    """Fused kernels: one call for all weights of a step, on a CPU too."""
    rate, decay = parameters.learning_rate, parameters.weight_decay
    if parameters.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay, fused=True)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def learning_rate(parameters: LoopParameters, progress: Progress, epochs: int) -> float:
    """The rate of the epoch that comes next; nothing but `progress` is remembered for it."""
    match parameters.schedule:
        case "constant":
            return parameters.learning_rate
        case "cosine":
            return parameters.learning_rate * (1 + math.cos(math.pi * progress.epoch / epochs)) / 2
        case "plateau":
            return parameters.learning_rate * progress.rate_factor


def out_of_patience(progress: Progress, parameters: LoopParameters) -> bool:
    """Whether as many epochs as were allowed have passed without a better one."""
    return parameters.patience is not None and progress.since_best() >= parameters.patience


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def finite(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights themselves, or `Diverged`: the very last step may have spoilt them unmeasured."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise Diverged(f"The weights {name} are no finite numbers any more.")
    return weights
