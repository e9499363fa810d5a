"""What the machine refuses, or has broken, is told in words or survived: never a stack trace."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops import dev_servers
from ops import keeper as keeping
from ops.cache_folder import locked
from ops.console import _structured
from ops.errors import OperatorError
from ops.keeper import Keeper, State
from ops.processes import Identity
from ops.state_folder import StateFolder
from ops.unprivileged import User, _account, _works
from tests.ops.conftest import until_async
from tests.ops.test_keeper import Script, kept
from tests.powerless import powerless


def test_a_lock_that_somebody_holds_is_not_waited_for_by_whoever_does_not_want_to(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as first, locked(tmp_path / "lock", wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "lock", wait=False) as third:
        assert third


def test_a_line_that_only_looks_like_json_is_shown_as_it_is() -> None:
    assert _structured("{ not json") is None


@pytest.mark.parametrize("content", ["no JSON", "[1]", '{"one": "of another version"}'])
def test_passwords_that_cannot_be_read_are_asked_for_back(folder: Path, content: str) -> None:
    state = StateFolder.open(folder)
    (folder / "secrets.json").write_text(content)
    with pytest.raises(OperatorError, match=r"cannot be read: .* Put back the copy"):
        state.secrets()


def test_servers_for_tests_say_why_they_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "somebody's").touch()
    monkeypatch.setattr(sys, "argv", ["dev_servers", str(tmp_path)])
    assert dev_servers.main() == 1
    assert "is not a state folder" in capsys.readouterr().err


def test_a_process_that_is_gone_is_sent_nothing() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    Identity(gone.pid, "1@a boot").send(signal.SIGTERM)


class Mute(Script):
    """One that runs and does not answer."""

    async def answers(self) -> None:
        await asyncio.Event().wait()


async def test_a_program_that_never_answers_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)
    said: list[str] = []
    keeper = Keeper(Mute("mute", {}, tmp_path, patience_seconds=0.05), tmp_path, say=said.append)
    await keeper.launch()
    keeper.watch()
    try:
        await until_async("two starts failed", lambda: len(said) >= 2)
    finally:
        await keeper.stop()
    assert said[0].startswith("did not answer in 0.05 s; it is started again")


async def test_a_program_that_is_gone_from_the_disk_is_looked_for_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)
    program, aside = tmp_path / "program", tmp_path / "aside"
    program.symlink_to("/bin/sleep")
    monkeypatch.setattr(Script, "command", lambda self: [str(program), "600"])
    async with kept(tmp_path, "") as (keeper, said):
        before = keeper.identity
        program.rename(aside)
        assert before is not None
        before.send(signal.SIGKILL)
        await until_async("its absence is noticed", lambda: any("No such file" in line for line in said))
        aside.rename(program)
        await until_async("it runs again", lambda: keeper.state is State.RUNNING and keeper.identity != before)


class TestAnotherUser:
    """Becoming one, where the machine does not let us."""

    @pytest.mark.skipif(os.geteuid() != 0, reason="asks root's tools for an account")
    def test_an_account_that_the_machine_does_not_make_is_none(self) -> None:
        assert _account("no:such:name") is None

    def test_a_user_that_we_may_not_become_does_not_work(self) -> None:
        def become() -> None:
            os.setgroups([12345])
            os.setuid(12345)

        assert not powerless(lambda: _works(User(become, (12345, 12345), "a stranger")))
