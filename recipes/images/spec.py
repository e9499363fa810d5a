"""The recipe `image-classification`: what people may ask of it, and whether a dataset suits. Without torch."""

from __future__ import annotations

from recipes.parameters import LoopParameters
from schemas.recipe import RecipeSpec


class ImageParameters(LoopParameters):
    """What to learn from."""


IMAGES = RecipeSpec(
    name="image-classification",
    version=1,
    title="Images",
    description="Learns what an image shows, with a small convolutional network.",
    formats=frozenset({"npz", "images"}),
    parameters=ImageParameters,
    train="recipes.tabular.train:train",
    predict="recipes.images.predict:load",
)
