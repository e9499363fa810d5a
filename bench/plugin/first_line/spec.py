"""The specification, without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from schemas.recipe import RecipeSpec


class Parameters(BaseModel):
    """None to speak of."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = 1


FIRST_LINE = RecipeSpec(
    name="bench-first-line",
    version=1,
    title="First line",
    description="Says when its first line ran.",
    formats=frozenset({"csv"}),
    parameters=Parameters,
    train="first_line.train:train",
    predict="first_line.train:predict",
)
