"""What the parameter models of the recipes share: strictness, and the fields that every training loop has."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Schedule = Literal["constant", "cosine", "plateau"]
ClassWeights = Literal["none", "balanced"]


class Parameters(BaseModel):
    """Strict: no unknown field, no text for a number, no boolean for an integer, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LoopParameters(Parameters):
    """How long and how fast to train; the same for every recipe built on `recipes.fitting`."""

    epochs: int = Field(20, ge=1, le=100_000, description="How many times to go through the data.")
    batch_size: int | None = Field(
        None, ge=1, le=1_000_000, description="Rows per step; empty chooses by the number of rows (8 to 512)."
    )
    learning_rate: float = Field(0.003, gt=0, le=1e6, description="How large a step is at the start.")
    schedule: Schedule = Field(
        "constant",
        description="How the learning rate changes: not at all, down a cosine to zero, or halved when the loss rests.",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or plain gradient descent with momentum.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="How strongly weights are drawn towards zero.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of hidden values that are dropped while training.")
    clip_gradients: float | None = Field(
        None, gt=0, le=1e6, description="Longest gradient that is let through; empty lets all through."
    )
    validation_fraction: float = Field(
        0.2, ge=0, le=0.9, description="Share of the rows kept aside to measure on; 0 keeps none."
    )
    class_weights: ClassWeights = Field(
        "none", description="`balanced` makes rare classes count as much as frequent ones (classification only)."
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Stop after so many epochs without a better validation loss and keep the best weights; "
        "empty trains every epoch.",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, le=100_000, description="Save a checkpoint every so many epochs; empty chooses by time."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="The same seed and data give the same model on a CPU.")

    @model_validator(mode="after")
    def _patience_needs_something_to_watch(self) -> Self:
        if self.patience is not None and self.validation_fraction == 0:
            raise ValueError("patience watches the validation loss, so validation_fraction must be above 0")
        return self


def automatic_batch_size(rows: int) -> int:
    """About fifty steps an epoch: a power of two, from 8 for small data to 512."""
    return 1 << max(3, min(9, (rows // 50).bit_length() - 1))
