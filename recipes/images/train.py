"""Trains the recipe `image-classification`: reads the images, brings them to one shape once, and works through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from torch import Tensor

from adapters.dataset_files import read_arrays, read_images
from recipes import random_state
from recipes.fitting import Examples, Lesson, fit
from recipes.images.network import ImageNetwork
from recipes.images.pixels import LARGEST_UNASKED, from_array, from_files
from recipes.images.spec import ImageParameters, choose
from recipes.objectives import Classification, balanced_weights
from recipes.split import split
from recipes.target import Labels, encode_target, fit_target, prepared, usable
from recipes.training import Result, TrainingRun, UnusableData


def train(run: TrainingRun) -> Iterator[Result]:
    """Yield the results of one attempt."""
    parameters: ImageParameters = run.parameters
    pixels, column, array = read(run, parameters)
    random_state.seed(parameters.seed)

    labels = fit_target(column, "classification")
    assert isinstance(labels, Labels)
    classes = encode_target(column, labels)
    training, validation = split(len(classes), parameters.validation_fraction, parameters.seed, classes)
    answers = torch.from_numpy(classes)

    def examples(rows: np.ndarray[Any, np.dtype[np.int64]]) -> Examples:
        chosen = torch.from_numpy(rows)
        return Examples((pixels[chosen].to(run.device),), answers[chosen].to(run.device))

    taught = examples(training)
    _, channels, height, width = pixels.shape
    model = ImageNetwork(channels, (height, width), parameters.width, labels.outputs, parameters.dropout)
    model.standardise_like(taught.inputs[0].cpu())
    balanced = parameters.class_weights == "balanced"
    run.log(
        f"{len(training)} images to train on, {len(validation)} to measure on, each {channels} × {height} × {width}; "
        f"{labels.outputs} classes."
    )
    yield from fit(
        run,
        parameters,
        Lesson(
            model=model.to(run.device),
            objective=Classification(
                labels.outputs, balanced_weights(taught.targets, labels.outputs) if balanced else None
            ),
            training=taught,
            validation=examples(validation) if len(validation) else None,
            manifest={
                "images": array,
                "channels": channels,
                "size": [height, width],
                "target": msgspec.to_builtins(labels),
            },
            augment=flipped if parameters.flip else None,
            evaluation_batch=256,
        ),
    )


def read(run: TrainingRun, parameters: ImageParameters) -> tuple[Tensor, pl.Series, str | None]:
    """The images, their labels, and the name of the array that they came from."""
    asked = parameters.image_size
    if run.format == "images":
        folder = read_images(run.dataset)
        numbers: list[int] = []

        def images() -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
            for number, image in folder.items:
                numbers.append(number)
                yield image

        pixels = from_files(images(), (asked or LARGEST_UNASKED,) * 2)
        return pixels, pl.Series("label", [folder.labels[number] for number in numbers]), None
    arrays = read_arrays(run.dataset)
    try:
        name, label = choose(
            {name: array.shape[1:] for name, array in arrays.items()}, parameters.images, parameters.labels
        )
    except ValueError as error:
        raise UnusableData(str(error)) from error
    for wanted in (name, label):
        if wanted not in arrays:
            raise UnusableData(f"The dataset has no array {wanted!r}.")
    column = label_column(label, arrays[label])
    keep = usable(column)
    if not keep.all():
        run.log(f"{int((~keep).sum())} of {len(keep)} images have no label and are left out.")
    pixels = from_array(name, arrays[name], (asked, asked) if asked else None)
    return pixels[torch.from_numpy(keep.to_numpy())], prepared(column.filter(keep)), name


def label_column(name: str, array: np.ndarray[Any, np.dtype[Any]]) -> pl.Series:
    """The labels, one a row."""
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise UnusableData(f"{name!r} has rows of shape {array.shape[1:]}: one label for each image is needed.")
    flat = array.reshape(-1)
    match array.dtype.kind:
        case "S":
            return pl.Series(name, [value.decode(errors="replace") for value in flat.tolist()])
        case "U":
            return pl.Series(name, flat.tolist())
        case _:
            return pl.Series(name, flat)


def flipped(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Half of the images of a batch as in a mirror."""
    (pixels,) = inputs
    mirrored = (torch.rand(len(pixels)) < 0.5).to(pixels.device)
    return (torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels),)
