"""How a command ends: with a status, a sentence where something is wrong, and never with a stack trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import __main__ as entry
from cli import credentials
from cli.train import _parameters
from tests.cli.conftest import NOWHERE, Ravand


def test_a_reader_that_goes_away_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "settings", "--json"],
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_breaks_in_a_service_is_a_failure(ravand: Ravand, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(entry, "_load_structlog_alone", lambda: None)  # It would take rich away from the other tests.
    monkeypatch.setattr("cli.services._serve", lambda *_, **__: os.write(write, b"x"))
    assert ravand("supervisor").status == 1
    os.close(write)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_the_commands_are_loaded_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(**_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(entry, "application", loading)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130


def test_unusable_settings_are_named(ravand: Ravand) -> None:
    ended = ravand("admin", "rules", RAVAND_DATABASE__POOL_SIZE="many", RAVAND_KAFKA__PREFIX="!")
    ended.explains("RAVAND_DATABASE__POOL_SIZE: ", "RAVAND_KAFKA__PREFIX: ", "Correct the environment")


def test_a_time_that_is_none_is_refused(ravand: Ravand) -> None:
    ravand("audit", "replay", "--since", "yesterday").explains("--since 'yesterday' is no moment")


class TestAFileThatIsNotWhatItShouldBe:
    """Named, with what is wrong with it; nothing is done."""

    @pytest.mark.parametrize("content", [None, "no key", "00ff"], ids=["missing", "no digits", "short"])
    def test_the_key_of_the_seals(self, ravand: Ravand, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "audit.key"
        if content is not None:
            file.write_text(content)
        ravand("audit", "verify", "--key", str(file)).explains("The key cannot be used", str(file))

    @pytest.mark.parametrize("content", [None, "no JSON", '{"format": 9}'], ids=["missing", "no JSON", "newer"])
    def test_an_anchor(self, ravand: Ravand, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "anchor"
        if content is not None:
            file.write_text(content)
        ravand("audit", "verify", "--anchor", str(file)).explains("The anchor cannot be used", str(file))

    def test_a_folder_where_no_backup_is(self, ravand: Ravand, tmp_path: Path) -> None:
        ended = ravand("admin", "restore", "--verify-only", str(tmp_path))
        ended.explains("The backup is not whole", "manifest.json is not there")

    @pytest.mark.parametrize("content", [None, "no JSON", "[1]", '{"server": "x"}', "\udcff"])
    def test_a_login_that_cannot_be_read_is_none(
        self, ravand: Ravand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
    ) -> None:
        monkeypatch.setenv("RAVAND_CONFIG_DIR", str(tmp_path))
        monkeypatch.delenv("RAVAND_TOKEN", raising=False)
        if content is not None:
            (tmp_path / "ravand").mkdir()
            (tmp_path / "ravand" / "credentials.json").write_bytes(content.encode(errors="surrogateescape"))
        assert credentials.load() is None
        ravand("jobs", **NOWHERE).explains("You are not logged in", "ravand login")


def test_a_word_that_is_no_json_is_a_parameter_as_it_stands() -> None:
    assert _parameters(None, None, ["rate=0.5", "optimizer=adam", "note={"]) == {
        "rate": 0.5,
        "optimizer": "adam",
        "note": "{",
    }
