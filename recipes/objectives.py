"""What a model is asked to be good at: the loss that trains it and the figures that people read."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Objective(Protocol):
    """The loss of a batch, the model's guesses, and what many guesses are worth."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""

    def guess(self, output: Tensor) -> Tensor:
        """What the model says, one value a row."""

    def figures(self, guesses: Tensor, targets: Tensor) -> dict[str, float]:
        """Named figures of guesses against targets."""


class Classification:
    """One of several classes, as indices. Rare classes count more where weights say so."""

    def __init__(self, classes: int, weights: Tensor | None = None) -> None:
        """`weights`: one a class, or None to count every row alike."""
        self.classes = classes
        self.weights = weights

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(output, targets, self.weights)

    def guess(self, output: Tensor) -> Tensor:
        """The likeliest class."""
        return output.argmax(1)

    def figures(self, guesses: Tensor, targets: Tensor) -> dict[str, float]:
        """The share that is right, and F1 averaged over the classes that occur, all from 0 to 1."""
        right = torch.bincount(targets[guesses == targets], minlength=self.classes).double()
        there = torch.bincount(targets, minlength=self.classes).double()
        guessed = torch.bincount(guesses, minlength=self.classes).double()
        occurs = there + guessed > 0
        f1 = 2 * right[occurs] / (there + guessed)[occurs]
        return {"accuracy": float(right.sum() / there.sum()), "macro_f1": float(f1.mean())}


class Regression:
    """A number; the model learns it standardised, people read it in its own unit."""

    def __init__(self, mean: float, scale: float) -> None:
        """Standardised = (number - mean) / scale."""
        self.mean = mean
        self.scale = scale

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error, in standardised units."""
        return functional.mse_loss(output.squeeze(1), targets)

    def guess(self, output: Tensor) -> Tensor:
        """The number, standardised."""
        return output.squeeze(1)

    def figures(self, guesses: Tensor, targets: Tensor) -> dict[str, float]:
        """The mean absolute error in the number's own unit, and the share of the variance that is explained."""
        errors = (guesses - targets).double()
        spread = (targets.double() - targets.double().mean()).square().sum()
        unexplained = errors.square().sum()
        # A held-out part may happen to hold one value only: nothing varies, so nothing of it is explained.
        r2 = float(1 - unexplained / spread) if spread > 0 else 0.0
        return {"mae": float(errors.abs().mean()) * self.scale, "r2": r2}


def balanced_weights(targets: Tensor, classes: int) -> Tensor:
    """Weights by which every class counts alike, whatever its share of the rows."""
    counts = torch.bincount(targets, minlength=classes).clamp(min=1)
    return len(targets) / (classes * counts.float())
