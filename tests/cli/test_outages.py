"""Without Kafka or PostgreSQL a command ends with status 1, and says what happened, what was done and what to do."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import NOWHERE, Ravand

NOTHING_THERE = [
    ("admin init", "could not be initialised"),
    ("admin complete-log", "could not be compared"),
    ("admin rules", "could not be done"),
    ("admin dead-letters", "could not be read"),
    ("admin backup {folder}/backup", "No backup was made"),
    ("admin rebuild-projections --status", "Nothing was done"),
    ("audit verify", "Nothing could be verified"),
    ("audit replay", "could not be read"),
    ("audit replay --from-log", "could not be read"),
]


@pytest.mark.parametrize(("command", "said"), NOTHING_THERE, ids=[command for command, _ in NOTHING_THERE])
def test_where_nothing_listens_it_is_said_which_settings_to_check(
    ravand: Ravand, tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str, said: str
) -> None:
    ended = ravand(*command.format(folder=tmp_path).split(), **NOWHERE)
    ended.explains(said, "RAVAND_KAFKA__…, RAVAND_DATABASE__URL")
    assert list(tmp_path.iterdir()) == []
    assert "Unclosed" not in caplog.text, "a client that could not connect is let go of"


def test_an_administrator_cannot_be_made_without_the_database(ravand: Ravand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse 9 battery\n"))
    ended = ravand("admin", "user", "ada@example.org", "--password-stdin", **NOWHERE)
    ended.explains("could not be made", "RAVAND_DATABASE__URL")


def test_a_weak_password_makes_no_administrator(ravand: Ravand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("ada\n"))
    ravand("admin", "user", "ada@example.org", "--password-stdin", **NOWHERE).explains("Nothing was changed.")
