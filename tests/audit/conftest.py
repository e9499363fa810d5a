"""The platform of the projector's tests: a log and a database for each test, with histories that a real projector stored."""

from __future__ import annotations

from tests.projections.conftest import database_template, log, settings

__all__ = ["database_template", "log", "settings"]
