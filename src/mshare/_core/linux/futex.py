"""Waiting for a change of a 4-byte word in shared memory, futex(2). May depend on: libc."""

from __future__ import annotations

import ctypes
import errno

from . import libc

_SYS_futex = ctypes.c_long(202)
_WAIT, _WAKE, _WAKE_OP = ctypes.c_int(0), ctypes.c_int(1), ctypes.c_int(5)
_ADD_ONE = ctypes.c_int(1 << 28 | 1 << 12)
"""FUTEX_OP_ADD of 1; then the comparison "old value == 0", whose wake wakes nobody."""
_EVERYBODY = ctypes.c_int((1 << 31) - 1)
_NOBODY = ctypes.c_long(0)

_libc = ctypes.CDLL(None, use_errno=True)


def wait(word: object, value: int, seconds: float) -> None:
    """Sleep until a wake, a signal, or for so many seconds, if the word that `byref` gives holds `value`.

    The call may also return for no reason, so the caller looks at the word again. Raises `OSError`.
    """
    whole, part = divmod(int(seconds * 1e9), 1_000_000_000)
    timeout = (ctypes.c_long * 2)(whole, part)
    if _libc.syscall(_SYS_futex, word, _WAIT, ctypes.c_uint(value), timeout, None, ctypes.c_int(0)) < 0:
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            libc.raise_errno()


def wake_all(word: object) -> None:
    """Wake every process and thread that waits for the word."""
    if _libc.syscall(_SYS_futex, word, _WAKE, _EVERYBODY, None, None, ctypes.c_int(0)) < 0:
        libc.raise_errno()


def add_and_wake_one(word: object) -> None:
    """Add 1 to the word, in one atomic step of the kernel, and wake one that waits for it."""
    if _libc.syscall(_SYS_futex, word, _WAKE_OP, ctypes.c_int(1), _NOBODY, word, _ADD_ONE) < 0:
        libc.raise_errno()
