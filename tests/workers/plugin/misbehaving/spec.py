"""The specification, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.recipe import RecipeSpec

Deed = Literal["finish", "raise", "unusable", "diverge", "kill", "exit", "out_of_memory", "hang", "long_name"]


class Parameters(BaseModel):
    """What to do, and when."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = 3
    deed: Deed = "finish"
    after_epoch: int = 1
    """The deed is done after this epoch."""
    permits: str | None = None
    """A file with the number of the last epoch that may begin; without it, all may."""
    checkpoint_every: int | None = 1
    lines: int = 0
    """So many lines are printed every epoch."""


MISBEHAVING = RecipeSpec(
    name="misbehaving",
    version=1,
    title="Misbehaving",
    description="Does what a test tells it to.",
    formats=frozenset({"csv"}),
    parameters=Parameters,
    train="misbehaving.train:train",
    predict="misbehaving.train:predict",
)
