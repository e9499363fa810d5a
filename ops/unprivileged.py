"""Lets root run a program that refuses to be run by root, without opening any folder to anybody.

First choice is a user namespace in which root's files belong to some ordinary user: PostgreSQL sees that user, the
files stay root's, and a private path such as /root needs no change, since to the rest of the machine it is still root
(without root's special powers: those end at the exec). Where namespaces are refused, as in most containers, it runs as
a system account of its own, with the one capability that lets it pass through private folders on the way to its data.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.errors import OperatorError

ACCOUNT = "ravand-postgres"
_CLONE_NEWUSER = 0x10000000
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class User:
    """Who the program is: what its process does before exec, and who must own its files."""

    before_exec: Callable[[], None] | None
    owner: tuple[int, int]
    how: str

    def give(self, folder: Path) -> None:
        """Makes it the owner of everything in its folder; a walk only if the folder is still another's."""
        if (stat := folder.stat()) and (stat.st_uid, stat.st_gid) == self.owner:
            return
        for parent, _, files in os.walk(folder, topdown=False):
            for path in (*(Path(parent, file) for file in files), Path(parent)):
                os.chown(path, *self.owner, follow_symlinks=False)


def ordinary_user() -> User:
    """Somebody who is not root; we ourselves, if we are not."""
    if os.geteuid() != 0:
        return User(None, (os.geteuid(), os.getegid()), "the user who started it")
    for choice in (in_namespace, as_account):
        user = choice()
        if user is not None and _works(user):
            return user
    raise OperatorError(
        "PostgreSQL refuses to run as root, and this machine allows root neither a user namespace nor another user.",
        "Run `ravand up` as an ordinary user, or name a PostgreSQL that runs elsewhere in RAVAND_DATABASE__URL.",
    )


def in_namespace() -> User | None:
    """A user namespace with one user in it. PostgreSQL looks its name up, so it must be one that the machine knows."""
    user_id = next((entry.pw_uid for entry in pwd.getpwall() if 0 < entry.pw_uid < 65_534), None)
    if user_id is None:
        return None

    def before_exec() -> None:
        if _libc.unshare(_CLONE_NEWUSER) != 0:
            os._exit(126)
        for file, text in (("setgroups", "deny"), ("gid_map", f"{user_id} 0 1"), ("uid_map", f"{user_id} 0 1")):
            descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
            os.write(descriptor, text.encode())
            os.close(descriptor)

    return User(before_exec, (0, 0), "a user namespace")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def as_account(name: str = ACCOUNT) -> User | None:
    """A system account, made if there is none, that keeps one capability: to pass through and read private folders.

    Docker's default set lacks CAP_DAC_READ_SEARCH and has CAP_DAC_OVERRIDE, which then stands in. Only the database's
    superuser could use it, whose password is in the state folder alone; the services' role is not a superuser.
    """
    capability = next((c for c in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if _permitted() >> c & 1), None)
    entry = _account(name)
    if capability is None or entry is None:
        return None
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)(_Sets(1 << capability, 1 << capability, 1 << capability), _Sets())

    def before_exec() -> None:
        _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        if _libc.capset(ctypes.byref(header), sets) != 0:
            os._exit(126)
        if _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0:
            os._exit(126)

    return User(before_exec, (entry.pw_uid, entry.pw_gid), f"the system account {name}")


def _permitted() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
    if useradd is None:
        return None
    command = [useradd, "--system", "--no-create-home", "--home-dir", "/nonexistent", "--user-group"]
    subprocess.run([*command, "--shell", "/usr/sbin/nologin", name], check=False, capture_output=True)
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _works(user: User) -> bool:
    """Whether a process can become this user here; seccomp and AppArmor only tell when asked."""
    try:
        result = subprocess.run(["/bin/true"], preexec_fn=user.before_exec, check=False, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return result.returncode == 0
