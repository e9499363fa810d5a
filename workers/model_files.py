"""A trained model as files: weights as safetensors, and a manifest in JSON with all that prediction and audits need."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save

from adapters.object_store_blocking import BlockingObjectStore
from domain.events import StoredFile
from recipes.model_file import FORMAT, FORMAT_VERSION, MANIFEST, WEIGHTS
from recipes.training import Trained
from workers.child_messages import Train


def write(store: BlockingObjectStore, train: Train, trained: Trained, device: str) -> tuple[StoredFile, ...]:
    """Put the files of a model into the store, each whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.weights.items()}
    manifest = json.dumps(describe(train, trained, device), ensure_ascii=False, allow_nan=False, indent=2)
    files = {WEIGHTS: save(weights, {"format": "pt"}), MANIFEST: manifest.encode()}
    return tuple(_put(store, f"jobs/{train.job_id}/{train.attempt}/model", name, data) for name, data in files.items())


def describe(train: Train, trained: Trained, device: str) -> dict[str, Any]:
    """The manifest."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "recipe": {"name": train.recipe, "version": train.recipe_version},
        "parameters": dict(train.parameters),
        "dataset": {"id": train.dataset.id, "sha256": train.dataset.sha256, "format": train.dataset.format},
        "job": {"id": train.job_id, "attempt": train.attempt},
        "epochs": trained.last_epoch,
        "best_epoch": trained.best_epoch,
        "metrics": dict(trained.metrics),
        "seed": train.parameters.get("seed"),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": dict(trained.manifest),
    }


def device_name(device: str) -> str:
    """`cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _put(store: BlockingObjectStore, folder: str, name: str, data: bytes) -> StoredFile:
    store.put_sync(f"{folder}/{name}", data)
    return StoredFile(name=name, uri=f"{folder}/{name}", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
