"""Checkpoints as files: nested states as safetensors with a JSON description, never pickled, trusted only by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adapters.object_store_blocking import BlockingObjectStore
from adapters.objects import ObjectMissing
from domain.events import Checkpoint

FORMAT = "ravand-checkpoint"
FORMAT_VERSION = 1


class CheckpointUnreadable(Exception):
    """The store answers, and the checkpoint is not there or not what was written. Going on from it is impossible."""


def write(store: BlockingObjectStore, key: str, state: Mapping[str, Any]) -> str:
    """Put a state into the store, whole or not at all; the SHA-256 of exactly the bytes that were written."""
    data = to_bytes(state)
    store.put_sync(key, data)
    return hashlib.sha256(data).hexdigest()


def read(store: BlockingObjectStore, checkpoint: Checkpoint) -> dict[str, Any]:
    """The state of a checkpoint whose bytes are those that were written; StoreUnavailable when the store is away."""
    try:
        data = store.get_sync(checkpoint.uri)
    except ObjectMissing as error:
        raise CheckpointUnreadable(f"There is no {checkpoint.uri} in the object store.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != checkpoint.sha256:
        raise CheckpointUnreadable(f"{checkpoint.uri} has the hash {found}, not {checkpoint.sha256}.")
    return from_bytes(data)


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """A nested state as the bytes of a safetensors file."""
    tensors: dict[str, Tensor] = {}
    about = {"version": FORMAT_VERSION, "tree": _flattened(state, "", tensors)}
    # One entry: with several, the library would write them in any order, and equal states would have unequal hashes.
    return save(tensors, {FORMAT: json.dumps(about, ensure_ascii=False, allow_nan=False)})


def from_bytes(data: bytes) -> dict[str, Any]:
    """The nested state again, its tensors on the CPU."""
    try:
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
        if about["version"] != FORMAT_VERSION:
            raise CheckpointUnreadable(f"The checkpoint has version {about['version']}, not {FORMAT_VERSION}.")
        state: dict[str, Any] = _nested(about["tree"], load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnreadable(f"The checkpoint cannot be read: {error}") from error
    return state


def _flattened(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for the value; its tensors go aside, under the path that leads to them."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            # A copy where memory is shared: each tensor stands for itself in the file.
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {"tensor": path}
        case Mapping():
            # Pairs, not a JSON object: an optimizer numbers its parameters with integers.
            return {"dict": [[key, _flattened(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            items = [_flattened(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": items}
        case _:
            raise TypeError(f"A checkpoint cannot hold {type(value).__name__} at {path}.")


def _nested(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    match tree:
        case {"tensor": str(path)}:
            return tensors[path]
        case {"dict": list(pairs)}:
            return {key: _nested(item, tensors) for key, item in pairs}
        case {"list": list(items)}:
            return [_nested(item, tensors) for item in items]
        case {"tuple": list(items)}:
            return tuple(_nested(item, tensors) for item in items)
        case _:
            return tree


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
