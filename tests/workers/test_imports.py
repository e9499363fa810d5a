"""A worker and a supervisor run for months: they hold no torch, and what they import stays small."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["workers.worker", "workers.supervisor"])
def test_no_heavy_library_is_loaded(module: str) -> None:
    code = f"import sys, {module}; print(*({{'torch', 'numpy', 'polars', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
