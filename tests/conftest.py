"""What every test may ask for: the real broker and the real PostgreSQL of the run."""

from __future__ import annotations

pytest_plugins = ["tests.servers"]
