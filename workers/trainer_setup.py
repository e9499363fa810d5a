"""What a training child arranges before it trains: threads, device, determinism, the dataset's bytes."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import torch

from adapters.durable_files import sha256_of
from adapters.object_store_blocking import BlockingObjectStore
from adapters.objects import ObjectMissing
from domain.events import DatasetRef
from recipes import catalog
from recipes.training import EpochResult, TrainingRun
from workers import checkpoint_files
from workers.child_messages import Train
from workers.process import set_title
from workers.trainer_errors import DatasetUnreadable


def warm_up() -> None:
    """Do ahead of any job what every job would do: import what starts threads, read a table, train on it."""
    for spec in catalog.recipes().values():
        module = spec.train.partition(":")[0]
        if module.startswith("recipes."):  # A plugin that cannot be imported must fail its own jobs only.
            importlib.import_module(module)
    if torch.cuda.is_available():  # Training would occupy some of the GPU's memory while another job may need it.
        return
    spec = catalog.recipe("tabular")
    parameters = spec.parameters.model_validate({"target": "c", "epochs": 1, "patience": 1})
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("a,b,c\n" + "1.5,x,0\n2.5,y,1\n,x,0\n4.5,y,1\n" * 4)
        file.flush()
        run = TrainingRun(parameters, 1, Path(file.name), "csv", "cpu", log=lambda _line: None)
        for result in catalog.function(spec.train)(run):
            if isinstance(result, EpochResult):
                checkpoint_files.from_bytes(checkpoint_files.to_bytes(result.state_dict()))


def set_job_title(train: Train) -> None:
    """Let `ps` say which job this process trains."""
    set_title(f"ravand: training {train.recipe}, job {train.job_id}, attempt {train.attempt}")


def set_threads(threads: int) -> int:
    """Use so many threads. An attempt that goes on keeps the first one's number: sums depend on how they are split."""
    torch.set_num_threads(threads)
    return torch.get_num_threads()


def set_device(asked: str | None) -> str:
    """The device to train on, where the same seed gives the same numbers as far as that is possible."""
    device = asked or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = "cuda:0"
    on_gpu = device.startswith("cuda")
    # On a GPU some operations have no deterministic form; training slightly differently beats not training.
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    torch._C._set_deterministic_fill_uninitialized_memory(False)  # Nothing here reads memory that was not written.
    if on_gpu:
        torch.backends.cudnn.benchmark = False
        torch.cuda.set_device(device)
    return device


def open_dataset(store: BlockingObjectStore, dataset: DatasetRef, scratch: Path) -> Path:
    """A file with the bytes that were registered: in place where the store is a folder, else downloaded."""
    path = store.local_path(dataset.uri)
    try:
        if path is None:
            path = scratch / "dataset"
            store.download_sync(dataset.uri, path)
        elif store.head_sync(dataset.uri) is None:
            raise ObjectMissing(dataset.uri)
    except ObjectMissing as error:
        raise DatasetUnreadable(f"There is no {dataset.uri} in the object store.") from error
    found = sha256_of(path)
    if found != dataset.sha256:
        raise DatasetUnreadable(f"{dataset.uri} has the hash {found}, not {dataset.sha256}.")
    return path
