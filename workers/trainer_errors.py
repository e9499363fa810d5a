"""Why an attempt ended badly, as a code: what trying again would repeat, and what the surroundings did."""

from __future__ import annotations

import errno

import torch

from adapters.dataset_files import DatasetTooLarge, UnreadableDataset
from adapters.objects import StoreUnavailable
from recipes.training import Diverged, UnusableData
from workers.checkpoint_files import CheckpointUnreadable

LONGEST_TEXT = 64 * 1024

_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_DEVICE = (
    "CUDA error",
    "CUDA driver",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUFFT_STATUS",
    "device-side assert",
    "HIP error",
)


class DatasetUnreadable(Exception):
    """The store answers, and the dataset is not there or not what was registered."""


def code_of(error: BaseException) -> str:
    """The code of `Failed` for an exception."""
    match error:
        case UnusableData() | UnreadableDataset() | DatasetTooLarge():
            return "unusable_data"
        case Diverged():
            return "diverged"
        case CheckpointUnreadable():
            return "checkpoint_unreadable"
        case DatasetUnreadable():
            return "dataset_unreadable"
        case StoreUnavailable():
            return "store_away"
        case MemoryError() | torch.OutOfMemoryError():
            return "out_of_memory"
        case torch.AcceleratorError():
            return "device_error"
        case OSError(errno=errno.ENOMEM):
            return "out_of_memory"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):  # No room for the dataset: another worker may have it.
            return "store_away"
        case RuntimeError() if any(sign in str(error) for sign in _MEMORY):
            return "out_of_memory"
        case RuntimeError() if any(sign in str(error) for sign in _DEVICE):
            return "device_error"
        case _:
            return "exception"


def bounded(text: str) -> str:
    """The end of a long text, where a traceback says what happened."""
    return text if len(text) <= LONGEST_TEXT else "…" + text[-LONGEST_TEXT:]
