"""Become another user and keep only some of root's rights, as systemd does with AmbientCapabilities."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_NICE, CAP_CHECKPOINT_RESTORE = (
    2,
    19,
    23,
    40,
)  # include/uapi/linux/capability.h

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 4, 8
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def become(uid: int, capabilities: Collection[int]) -> None:
    """Give up all rights of root but `capabilities`, for good. Raises `OSError`."""
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kept = sum(1 << each for each in capabilities)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable
    _check(_libc.capset(header, sets))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))  # its own /proc files, which a change of user closes


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
