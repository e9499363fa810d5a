"""Which GPU each worker of this machine gets."""

from __future__ import annotations

import contextlib
import os


def gpu_count() -> int:
    """How many this machine has, as far as CUDA would be allowed to see them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    with contextlib.suppress(Exception):  # No driver, no library, no permission: then none.
        import pynvml

        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    return 0


def device_of(worker: int, gpus: int) -> str | None:
    """Its GPU, in turn; with none or one there is nothing to choose."""
    return f"cuda:{worker % gpus}" if gpus > 1 else None
