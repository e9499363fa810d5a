"""How far training has come: together with model, optimizer and random numbers, all that a resumed job needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

REST = 5
"""The schedule `plateau` halves the learning rate after so many epochs without a better loss."""


@dataclass(slots=True)
class Progress:
    """Counts, the epoch under way, and the best epoch so far."""

    epoch: int = 0
    """Epochs that are done."""
    steps: int = 0
    """Optimizer steps since the beginning."""

    order: Tensor | None = None
    """The order of the rows in the epoch under way; None between epochs."""
    losses: list[Tensor] = field(default_factory=list)
    """One a step of the epoch under way. They are read when it ends: reading each would make every step wait."""
    guesses: list[Tensor] = field(default_factory=list)

    last_metrics: dict[str, float] = field(default_factory=dict)
    """Those of the last epoch that is done."""
    best_loss: float | None = None
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] | None = None
    """Kept only where early stopping will want them back."""
    rate_factor: float = 1.0

    @property
    def step(self) -> int:
        """Steps that are done of the epoch under way."""
        return len(self.losses)

    def since_best(self) -> int:
        """How many epochs have passed without a better one."""
        return self.epoch - self.best_epoch

    def complete(self, metrics: dict[str, float], watched: float) -> bool:
        """Count the epoch under way as done; say whether it is the best so far."""
        self.epoch += 1
        self.last_metrics = metrics
        self.order = None
        self.losses.clear()
        self.guesses.clear()
        best = self.best_loss is None or watched < self.best_loss
        if best:
            self.best_loss, self.best_epoch, self.best_metrics = watched, self.epoch, dict(metrics)
        elif self.since_best() % REST == 0:
            self.rate_factor /= 2
        return best

    def state_dict(self) -> dict[str, Any]:
        """Everything, as a checkpoint can hold it."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "order": self.order,
            "losses": torch.stack(self.losses) if self.losses else None,
            "guesses": torch.cat(self.guesses) if self.guesses else None,
            "last_metrics": self.last_metrics,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "best_metrics": self.best_metrics,
            "best_weights": self.best_weights,
            "rate_factor": self.rate_factor,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: str) -> Progress:
        """As it was when `state_dict` was called."""
        losses, guesses, order = state["losses"], state["guesses"], state["order"]
        return cls(
            epoch=state["epoch"],
            steps=state["steps"],
            order=None if order is None else order.to(device),
            losses=[] if losses is None else list(losses.to(device).unbind()),
            guesses=[] if guesses is None else [guesses.to(device)],
            last_metrics=dict(state["last_metrics"]),
            best_loss=state["best_loss"],
            best_epoch=state["best_epoch"],
            best_metrics=dict(state["best_metrics"]),
            best_weights=state["best_weights"],
            rate_factor=state["rate_factor"],
        )
