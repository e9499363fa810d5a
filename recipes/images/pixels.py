"""Brings images of every kind to one shape: rows × channels × height × width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from recipes.images.spec import image_shape
from recipes.training import UnusableData

LARGEST_UNASKED = 64
"""Images are not kept larger than this unless somebody asks for it."""
SMALLEST = 8


def from_array(name: str, array: npt.NDArray[Any], size: tuple[int, int] | None) -> Tensor:
    """Images out of an array, as bytes where it holds bytes, brought to height and width (or, with None, kept)."""
    shape = image_shape(array.shape[1:])
    if shape is None:
        raise UnusableData(f"{name!r} has rows of shape {array.shape[1:]}: no images.")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
        raise UnusableData(f"{name!r} holds {array.dtype}: no pixels.")
    channels, height, width = shape
    if array.ndim == 4 and array.shape[3] == channels and array.shape[1:] != shape:
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UnusableData(f"{name!r} holds NaN or infinite pixels.")
    pixels = torch.from_numpy(np.array(array.reshape(-1, channels, height, width), order="C"))
    return resized(pixels, size or (bounded(height), bounded(width)))


def from_files(images: Iterable[npt.NDArray[np.uint8]], size: tuple[int, int]) -> Tensor:
    """Images of different sizes, in colour."""
    height, width = size
    scaled = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)) for image in images]
    if not scaled:
        raise UnusableData("The archive holds no image.")
    return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).contiguous()


def bounded(length: int) -> int:
    """The height or width that an image gets when nobody asks for another."""
    return min(LARGEST_UNASKED, max(SMALLEST, length))


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The same images in another size; some at a time, since this is done in floating point."""
    if tuple(pixels.shape[2:]) == size:
        return pixels
    parts = [
        functional.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        for part in torch.split(pixels, 1024)
    ]
    result = torch.cat(parts)
    return result.round().clamp(0, 255).to(torch.uint8) if pixels.dtype == torch.uint8 else result


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Grey images as colour ones and the other way round, so that a model takes either."""
    if pixels.shape[1] == channels:
        return pixels
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    if channels == 1:
        return pixels[:, :3].float().mean(1, keepdim=True).to(pixels.dtype)
    raise UnusableData(f"The images have {pixels.shape[1]} channels, and {channels} are needed.")
