"""Predicts with a model of the recipe `image-classification`, from its files alone."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load as load_weights
from torch import Tensor

from adapters.dataset_files import UnreadableDataset
from recipes.images.network import ImageNetwork
from recipes.images.pixels import from_array, from_files, with_channels
from recipes.images.spec import ImageParameters, choose
from recipes.model_file import ModelFile, UnreadableModel
from recipes.prediction import MissingColumns, answers
from recipes.target import Labels
from recipes.training import UnusableData

IMAGES = 256
"""Images at a time."""


class ImagePredictor:
    """Answers for images in an NPZ file, in an archive of folders, in a folder, or for a single file."""

    def __init__(self, model: ModelFile) -> None:
        """Rebuild the network from the manifest, and fill in the weights."""
        try:
            described = model.manifest["model"]
            self.labels = msgspec.convert(described["target"], Labels)
            self.channels: int = described["channels"]
            height, width = described["size"]
            self.size = (height, width)
            self.array: str | None = described["images"]
            parameters = ImageParameters.model_validate(model.manifest["parameters"])
            self.network = ImageNetwork(self.channels, self.size, parameters.width, self.labels.outputs)
            self.network.load_state_dict(load_weights(model.weights))
        except (KeyError, ValueError, RuntimeError) as error:
            raise UnreadableModel(f"The model's files do not fit together: {error}") from error
        self.network.eval()

    def predict_file(self, data: Path) -> Iterator[pl.DataFrame]:
        """Answers for all images, in order (files in a folder: by name), some at a time."""
        try:
            for pixels in self._read(data):
                yield self.predict(pixels)
        except UnusableData as error:
            raise UnreadableDataset("not_images", str(error)) from error

    def predict(self, pixels: Tensor) -> pl.DataFrame:
        """Answers for images that have the model's size."""
        with torch.inference_mode():
            return answers(self.labels, self.network(with_channels(pixels, self.channels)))

    def _read(self, data: Path) -> Iterator[Tensor]:
        if data.is_dir() or data.suffix.lower() in SUFFIXES:
            yield from self._in_groups(files_in(data))
        elif is_npz(data):
            from adapters.dataset_files import read_arrays

            arrays = read_arrays(data)
            name = self.array if self.array in arrays else None
            if name is None:
                try:
                    shapes = {name: array.shape[1:] for name, array in arrays.items()}
                    name, _ = choose(shapes, None, "")
                except ValueError as error:
                    raise MissingColumns([self.array or "images"]) from error
            yield from torch.split(from_array(name, arrays[name], self.size), IMAGES)
        else:
            from adapters.dataset_files import read_images

            yield from self._in_groups(image for _, image in read_images(data).items)

    def _in_groups(self, images: Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> Iterator[Tensor]:
        while group := list(islice(images, IMAGES)):
            yield from_files(group, self.size)


SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


def is_npz(path: Path) -> bool:
    """Whether an archive holds arrays rather than images."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise UnreadableDataset("bad_archive", f"{path.name} is neither an image nor an archive of images.") from error


def files_in(path: Path) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The image itself, or the images below a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    for file in files:
        try:
            with Image.open(file) as image:
                yield np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise UnreadableDataset("bad_image", f"{file.name} is no image that can be read.") from error


def load(model: ModelFile) -> ImagePredictor:
    """The predictor of a model."""
    return ImagePredictor(model)
