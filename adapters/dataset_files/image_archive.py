"""Reads an archive of images in folders, where a folder's name is the label of what is in it."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from adapters.dataset_files import ImageFolder
from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, Limits
from adapters.dataset_files.zip_members import Archive, Member, bad_archive, open_archive
from schemas.dataset_profile import Column, DatasetProfile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The only decoders that ever see an uploaded byte."""

_NESTED = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")
_EXIF_ORIENTATION = 0x0112


def read(path: Path, limits: Limits = DEFAULT_LIMITS) -> ImageFolder:
    """The labels, and the images as they are asked for. The archive is open while the iterator is."""
    with open_archive(path, limits) as archive:
        labels = sorted({_label(member) for member in archive.members})
    return ImageFolder(labels, _items(path, labels, limits))


def _items(path: Path, labels: list[str], limits: Limits) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    numbers = {label: number for number, label in enumerate(labels)}
    with open_archive(path, limits) as archive:
        for member in archive.members:
            yield numbers[_label(member)], pixels_of(decode(archive, member, limits))


def profile(path: Path, limits: Limits) -> DatasetProfile:
    """Decode every image once, so that training meets no broken one."""
    labels: Counter[str] = Counter()
    shapes: set[tuple[int, int, int]] = set()
    preview: list[tuple[str, str]] = []
    pixels = 0
    with open_archive(path, limits) as archive:
        for member in archive.members:
            image = decode(archive, member, limits)
            pixels += image.width * image.height
            if pixels > limits.total_pixels:
                raise DatasetTooLarge(f"The images have more than {limits.total_pixels} pixels together.")
            labels[_label(member)] += 1
            shapes.add(_shape(image))
            if len(preview) < 100:
                preview.append((str(member.path)[:200], _label(member)))
    if not labels:
        raise UnreadableDataset("empty", "The archive holds no images.")
    frequent = sorted(labels, key=lambda label: (-labels[label], label))
    image_column = Column(name="image", type="image", missing=0, shape=shapes.pop() if len(shapes) == 1 else None)
    label_column = Column(name="label", type="text", missing=0, distinct=len(labels), values=tuple(frequent[:100]))
    return DatasetProfile(
        format="images",
        bytes=path.stat().st_size,
        rows=labels.total(),
        columns=(image_column, label_column),
        preview=tuple(preview),
    )


def decode(archive: Archive, member: Member, limits: Limits) -> Image.Image:
    """One image, its first frame, decoded whole."""
    data = archive.read(member)
    if data.startswith(_NESTED):
        raise bad_archive(f"“{member.path}” is an archive within the archive.")
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images; the limit below is ours. Warnings about odd metadata are not ours either.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > limits.image_pixels:
                raise _bad_image(member, f"has more than {limits.image_pixels} pixels")
            image.load()
            return image
    except Image.DecompressionBombError as error:
        raise _bad_image(member, f"has more than {limits.image_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise _bad_image(member, f"is not an image ({', '.join(FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, KeyError, TypeError) as error:
        # What Pillow's decoders raise on bytes that are not what their header says.
        raise _bad_image(member, "is damaged") from error


def pixels_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The image upright, as RGB: height × width × 3."""
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel: Pillow would cut off all that is above 255.
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _shape(image: Image.Image) -> tuple[int, int, int]:
    """The shape that `pixels_of` gives, without the work."""
    on_its_side = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height, 3) if on_its_side else (image.height, image.width, 3)


def _label(member: Member) -> str:
    if len(member.path.parts) < 2:
        raise UnreadableDataset("no_label", f"“{member.path}” is in no folder; a folder's name is the label.")
    return member.path.parts[-2]


def _bad_image(member: Member, what: str) -> UnreadableDataset:
    return UnreadableDataset("bad_image", f"“{member.path}” {what}.")
