"""Kernel modules: whether this kernel takes any, and loading or unloading one. May depend on: files, libc.

This module makes the system calls itself (finit_module(2), delete_module(2)), because their errno distinguishes causes
that insmod and rmmod print as text.
"""

from __future__ import annotations

import ctypes
import os

from .files import read_bytes
from .libc import raise_errno

_SYS = "/sys/module"
_LIST = "/proc/modules"
_DISABLED = "/proc/sys/kernel/modules_disabled"

_NUMBERS = {"x86_64": (313, 176)}
"""finit_module and delete_module, per machine."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def is_loaded(name: str) -> bool:
    """Tell whether a module of that name is in the kernel."""
    return os.path.isdir(f"{_SYS}/{name}")


def obstacle() -> str | None:
    """Return why this kernel takes no modules, not even from root, or None."""
    if not os.path.exists(_LIST):
        return "this kernel cannot load modules"
    if os.uname().machine not in _NUMBERS:
        return f"the module is for x86_64, not for {os.uname().machine}"
    try:
        if read_bytes(_DISABLED).strip() == b"1":
            return "loading modules is switched off until the next boot (kernel.modules_disabled=1)"
    except OSError:
        pass
    return None


def insert(path: str | os.PathLike[str]) -> None:
    """Load the module file. Raises `OSError`: EPERM, EEXIST, ENOEXEC, EKEYREJECTED, or the module's own error."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(_NUMBERS[os.uname().machine][0], fd, b"", 0):
            raise_errno()
    finally:
        os.close(fd)


def remove(name: str) -> None:
    """Unload the module. Raises `OSError`: EWOULDBLOCK (in use), ENOENT, EPERM."""
    if _libc.syscall(_NUMBERS[os.uname().machine][1], name.encode(), os.O_NONBLOCK):
        raise_errno()
