"""A model as people download it: a ZIP archive, or a folder, with the weights and the manifest. Nothing is unpickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "ravand-model"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 256 * 1024 * 1024


class UnreadableModel(Exception):
    """The file is no model of this kind, or of a newer version."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's two files."""

    manifest: Mapping[str, Any]
    weights: bytes
    """In the safetensors format."""


def read_model(path: Path) -> ModelFile:
    """Read a downloaded archive, or a folder with the same two files."""
    try:
        if path.is_dir():
            return parse((path / MANIFEST).read_bytes(), (path / WEIGHTS).read_bytes())
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
                raise UnreadableModel(f"The {MANIFEST} in {path.name} is too large.")
            return parse(archive.read(MANIFEST), archive.read(WEIGHTS))
    except (zipfile.BadZipFile, KeyError, FileNotFoundError) as error:
        raise UnreadableModel(f"{path} is no ZIP archive or folder with {MANIFEST} and {WEIGHTS}: {error}") from error


def parse(manifest: bytes, weights: bytes) -> ModelFile:
    """Check that the manifest is one of ours, in a version that this code reads."""
    try:
        described = json.loads(manifest)
    except ValueError as error:
        raise UnreadableModel(f"{MANIFEST} is no JSON: {error}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UnreadableModel(f"{MANIFEST} does not describe a model of this platform.")
    if described.get("format_version") != FORMAT_VERSION:
        raise UnreadableModel(
            f"The model has format version {described.get('format_version')}; this program reads {FORMAT_VERSION}."
        )
    return ModelFile(manifest=described, weights=weights)
