"""Finding the file system under a path, and mounting one. May depend on: files, libc, procfs."""

from __future__ import annotations

import ctypes
import os

from ..procfs import Mount, parse_mountinfo
from .files import read_bytes
from .libc import raise_errno

_libc = ctypes.CDLL(None, use_errno=True)


def mounts(fs_type: str | None = None) -> list[Mount]:
    """Return the mounts this process sees, in order, or those of one file-system type."""
    return parse_mountinfo(read_bytes("/proc/self/mountinfo"), fs_type)


def mount_under(path: str) -> Mount | None:
    """Return the mount that holds `path`, or None if the path does not exist or its mount is not visible (perhaps
    because the mount table is not)."""
    try:
        dev = os.stat(path).st_dev
        return next((mount for mount in reversed(mounts()) if mount.dev == dev), None)
    except OSError:
        return None


def private() -> bool:
    """Give this process and its children a private mount namespace, which no mount enters or leaves, and which ends
    with them. If the kernel does not allow this (not root), do nothing and return False."""
    new_namespace, recursive, make_private = 0x20000, 0x4000, 0x40000
    if _libc.unshare(new_namespace):
        return False
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(recursive | make_private), None):
        raise_errno()
    return True


def mount(fs_type: str, mount_point: str | os.PathLike[str], options: str, *, again: bool = False) -> None:
    """Mount a new file system without a device; no file in it is executable, set-uid or a device. `again` changes the
    options of the one that is mounted there. Raises `OSError`."""
    nosuid, nodev, noexec, remount = 2, 4, 8, 32
    flags = nosuid | nodev | noexec | (remount if again else 0)
    source, target = fs_type.encode(), os.fsencode(mount_point)
    if _libc.mount(source, target, source, ctypes.c_ulong(flags), options.encode()):
        raise_errno()


def unmount(mount_point: str | os.PathLike[str]) -> None:
    """Unmount, unless it is in use. Raises `OSError` (EBUSY)."""
    if _libc.umount2(os.fsencode(mount_point), 0):
        raise_errno()
