"""Folders on small disks that can be filled: file systems in memory, in a mount namespace of their own, without any rights.

Whoever is not root gets the right to mount from a user namespace. Only the process that `mounting` is handed to, and its
children, see the disks; everybody else reaches them through that process, under /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 16384, 1 << 18
_PIECE = 4096
_BALLAST = "ballast"
_NOT_ALLOWED = 126
# Loaded here and not after a fork: between fork and exec nothing may be imported or looked up.
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SmallDisk:
    """A folder that lies on a disk of its own."""

    folder: Path
    """Must exist, and be empty."""
    mebibytes: int

    def seen_by(self, pid: int) -> Path:
        """The folder as a process in the namespace sees it."""
        return Path(f"/proc/{pid}/root{self.folder}")

    def fill(self, pid: int) -> int:
        """Take what is left of it; how many bytes that was."""
        file = os.open(self.seen_by(pid) / _BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            stat = os.fstatvfs(file)
            free = stat.f_bavail * stat.f_frsize
            if free > _PIECE:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file, os.fstat(file).st_size, free - _PIECE)
            with contextlib.suppress(OSError):
                while True:  # Others write too, and each page that they give back is taken as well.
                    os.pwrite(file, b"\0" * _PIECE, os.fstat(file).st_size)
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def free(self, pid: int) -> None:
        """Give it back."""
        (self.seen_by(pid) / _BALLAST).unlink(missing_ok=True)


def mounting(disks: Sequence[SmallDisk]) -> Callable[[], None]:
    """What a child runs before exec, so that it and its children have these disks."""
    user, group = os.geteuid(), os.getegid()
    lines = [("setgroups", "deny"), ("gid_map", f"{group} {group} 1"), ("uid_map", f"{user} {user} 1")]
    mounts = [(os.fsencode(disk.folder), f"size={disk.mebibytes}m,mode=0700".encode()) for disk in disks]

    def before_exec() -> None:
        if _libc.unshare(_CLONE_NEWNS) != 0:
            if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER) != 0:
                os._exit(_NOT_ALLOWED)
            for file, text in lines:
                descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
                os.write(descriptor, text.encode())
                os.close(descriptor)
        if _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
            os._exit(_NOT_ALLOWED)
        for folder, options in mounts:
            if _libc.mount(b"tmpfs", folder, b"tmpfs", _MS_NOSUID | _MS_NODEV, options) != 0:
                os._exit(_NOT_ALLOWED)

    return before_exec


def why_not(folder: Path) -> str | None:
    """Why there can be no small disks here; None where there can. Tried on `folder`, which stays as it is."""
    command = ["/bin/sh", "-c", 'echo > "$0/probe"', str(folder)]
    try:
        tried = subprocess.run(command, preexec_fn=mounting([SmallDisk(folder, 1)]), check=False, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"this machine allows no mount namespace ({error})"
    if tried.returncode != 0:
        return "this machine allows no mount namespace, or no file system in one"
    return None
