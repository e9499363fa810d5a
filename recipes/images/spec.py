"""The recipe `image-classification`: what people may ask of it, and whether a dataset suits. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from recipes.parameters import LoopParameters
from recipes.task import MINIMUM_ROWS, class_problem
from schemas.dataset_profile import Column, DatasetProfile
from schemas.recipe import ParameterProblem, RecipeSpec

ArrayName = Annotated[str, Field(min_length=1, max_length=1000)]


class ImageParameters(LoopParameters):
    """Which arrays to learn from, how large the images are, and the size of the network."""

    images: ArrayName | None = Field(
        None, description="NPZ: the array with the images; empty takes the one that has images in it."
    )
    labels: ArrayName | None = Field(
        None, description="NPZ: the array with the labels; empty takes the one with a value for each image."
    )
    image_size: int | None = Field(
        None, ge=8, le=512, description="Height and width that images are brought to; empty keeps NPZ's own up to 64."
    )
    width: int = Field(
        16, ge=1, le=512, description="Channels of the first convolution; later ones have up to 4 times."
    )
    flip: bool = Field(False, description="Mirror images at random while training; not for digits or letters.")


def check(parameters: ImageParameters, profile: DatasetProfile) -> Sequence[ParameterProblem]:
    """Everything wrong with training these parameters on that dataset, each problem named by its field."""
    if profile.format not in IMAGES.formats:
        return [ParameterProblem("dataset_id", f"This recipe reads NPZ files and image folders, not {profile.format}.")]
    if profile.rows < MINIMUM_ROWS:
        return [ParameterProblem("dataset_id", f"Only {profile.rows} images; at least {MINIMUM_ROWS} are needed.")]
    return list(_problems(parameters, profile))


def _problems(parameters: ImageParameters, profile: DatasetProfile) -> Iterator[ParameterProblem]:
    if profile.format == "npz":
        for field, name in (("images", parameters.images), ("labels", parameters.labels)):
            if name is not None and profile.column(name) is None:
                yield ParameterProblem(f"parameters.{field}", f"The dataset has no array {name!r}.")
                return
        shapes = {column.name: column.shape or () for column in profile.columns}
        try:
            images, labels = choose(shapes, parameters.images, parameters.labels)
        except ValueError as error:
            yield ParameterProblem("parameters.labels" if parameters.images else "parameters.images", str(error))
            return
        if image_shape(shapes[images]) is None:
            yield ParameterProblem("parameters.images", f"{images!r} has rows of shape {shapes[images]}: no images.")
        label = profile.column(labels)
    else:
        label = next((column for column in profile.columns if column.type != "image"), None)
    if label is not None:
        yield from _label_problems(label, profile)


def _label_problems(label: Column, profile: DatasetProfile) -> Iterator[ParameterProblem]:
    if label.type in ("number", "datetime", "image"):
        yield ParameterProblem("parameters.labels", f"{label.name!r} is {label.type}; labels are integers or texts.")
    elif label.distinct is not None:
        problem = class_problem(label.distinct, profile.rows - label.missing)
        if problem:
            yield ParameterProblem("parameters.labels", f"{label.name!r} {problem}")


def choose(shapes: dict[str, tuple[int, ...]], images: str | None, labels: str | None) -> tuple[str, str]:
    """Which array holds the images and which the labels, by the shapes of their rows; ValueError where that is open."""
    single = [name for name, shape in shapes.items() if shape in ((), (1,)) and name != images]
    many = [name for name, shape in shapes.items() if shape not in ((), (1,)) and name != labels]
    deep = [name for name in many if len(shapes[name]) >= 2]
    images = images or _only("images", deep or many, ("images", "image", "x"))
    labels = labels or _only("labels", single, ("labels", "label", "y", "targets", "target"))
    if images == labels:
        raise ValueError("The images and the labels are the same array.")
    return images, labels


def _only(what: str, names: list[str], usual: tuple[str, ...]) -> str:
    if not names:
        raise ValueError(f"No array holds {what}.")
    names = [name for name in names if name.lower() in usual] or names
    if len(names) > 1:
        raise ValueError(f"Several arrays may hold {what}: {', '.join(names)}. Say which.")
    return names[0]


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Channels, height and width of one row; flat rows are square and grey. None if it is no image."""
    match shape:
        case (size,) if int(size**0.5) ** 2 == size and size >= 16:
            return 1, int(size**0.5), int(size**0.5)
        case (height, width):
            return 1, height, width
        case (height, width, (1 | 3 | 4) as channels):
            return channels, height, width
        case ((1 | 3 | 4) as channels, height, width):
            return channels, height, width
    return None


IMAGES = RecipeSpec(
    name="image-classification",
    version=1,
    title="Images",
    description="Learns what an image shows, with a small convolutional network: from arrays in an NPZ file, or from an "
    "archive with a folder of images for each label.",
    formats=frozenset({"npz", "images"}),
    parameters=ImageParameters,
    train="recipes.images.train:train",
    predict="recipes.images.predict:load",
    check=check,
)
