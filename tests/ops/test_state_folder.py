"""The state folder: private, versioned, and clear about what is wrong with it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ops.embedded import AskedPorts, choose_ports
from ops.errors import OperatorError, explained
from ops.log_file import LogFile
from ops.processes import Identity
from ops.state_folder import StateFolder


def test_secrets_are_drawn_once_for_each_folder(tmp_path: Path) -> None:
    first, second = StateFolder.open(tmp_path / "a"), StateFolder.open(tmp_path / "b")
    assert first.secrets() == StateFolder.open(tmp_path / "a").secrets()
    assert first.secrets() != second.secrets()
    assert len(first.secrets().auth_secret.encode()) >= 32


def test_data_without_its_secrets_is_not_given_new_ones(folder: Path) -> None:
    state = StateFolder.open(folder)
    (state.postgres / "data").mkdir()
    with pytest.raises(OperatorError, match="is missing"):
        state.secrets()


def test_a_folder_that_others_could_read_is_closed_to_them(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    StateFolder.open(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_ports_stay_the_same_from_start_to_start(folder: Path) -> None:
    state = StateFolder.open(folder)
    first = choose_ports(state, AskedPorts())
    assert choose_ports(state, AskedPorts()) == first
    assert len(set(first.values())) == 3


def test_a_disk_that_is_almost_full_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateFolder.open(folder)
    state.require_space()
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 1000, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(OperatorError, match="is full: 0 MiB are left"):
        state.require_space()


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EACCES, "cannot be used")]
)
def test_what_the_file_system_refuses_is_said_in_words(number: int, message: str) -> None:
    with pytest.raises(OperatorError, match=message), explained(Path("/somewhere")):
        raise OSError(number, os.strerror(number))


def test_a_log_file_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", limit=1000)
    for number in range(1000):
        log.write(f"line {number}\n".encode())
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2100
    assert log.tail(1) == ["line 999"]


def test_a_number_that_is_used_again_is_another_process() -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    assert me.lives
    assert not Identity(me.pid, "1@another boot").lives


def test_a_folder_from_before_there_could_be_three_brokers_has_one(folder: Path) -> None:
    state = StateFolder.open(folder)
    (state.kafka / "data").mkdir()
    assert state.brokers(None) == 1
    with pytest.raises(OperatorError, match="kept by one broker"):
        state.brokers(3)
