"""What each process loads when it starts: the import contracts say who may, this says who does."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "polars", "PIL", "safetensors", "pyarrow")
LIGHT = (
    "api.app",
    "cli.__main__",
    "projections.projector",
    "projections.background",
    "workers.supervisor",
    "workers.worker",
    "recipes.catalog",
    "recipes.tabular.spec",
    "recipes.images.spec",
)
PURE = ("aiokafka", "asyncpg", "sqlalchemy", "fastapi", "obstore", "asyncio.subprocess", "structlog")


def loaded_by(module: str, of: tuple[str, ...]) -> set[str]:
    """Which of those modules a fresh interpreter has after importing it."""
    program = f"import sys, {module}; print(*(name for name in {of!r} if name in sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize("module", LIGHT)
def test_it_starts_without_the_heavy_libraries(module: str) -> None:
    assert loaded_by(module, HEAVY) == set()


@pytest.mark.parametrize("module", ["domain.workspace", "domain.history", "schemas.envelope", "schemas.job_view"])
def test_it_decides_without_anything_that_reaches_outside(module: str) -> None:
    assert loaded_by(module, PURE) == set()
