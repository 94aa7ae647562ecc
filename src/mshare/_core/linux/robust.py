"""Robust mutexes of the C library (pthread_mutexattr_setrobust(3)) at any address. May depend on: libc.

Facts: the kernel knows the robust mutexes of a thread by a list that begins in the thread and runs through the
mutexes. When the thread ends in any way, by SIGKILL or exec also, the kernel marks each mutex of the list and wakes one
waiter. The next thread that locks the mutex gets EOWNERDEAD. A forked child begins with an empty list.
Facts: the C library writes through the two list pointers of a mutex when a thread unlocks it. Other processes can write
to a mutex in shared memory.
Consequence: pointers that another process has overwritten could make an unlock write anywhere.
Decision: `links_intact` compares the pointers before an unlock. A process that overwrites the pointers between the
comparison and the unlock is not covered.
Facts: a call through `PyDLL` keeps the GIL and takes half the time of a call through `CDLL`. A function without
`argtypes` that gets `byref(...)` is the fastest kind of call.
Decision: calls that never wait go through `PyDLL`, calls that wait through `CDLL`.
Source: glibc nptl/pthread_mutex_unlock.c; Linux kernel/futex/core.c, exit_robust_list.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time
from functools import cache
from threading import get_native_id

from . import libc

MUTEX_BYTES = 40
"""sizeof(pthread_mutex_t) on x86-64, of glibc and of musl."""
LOCK, KIND, PREVIOUS, NEXT = 0, 2, 3, 4
"""The 8-byte words of glibc's mutex: the futex, the kind, the neighbours in the list of the thread."""
TAIL_BYTE, TAIL_BYTES = 16, 24
"""The last three words of a mutex."""
NODE_BYTE = 32
"""The list runs through this byte of a mutex."""
THREAD_MASK = (1 << 30) - 1
"""The bits of the futex that name the owner by its thread id."""

_SYS_tgkill, _SYS_get_robust_list, _SYS_process_vm_readv = map(ctypes.c_long, (234, 274, 310))
_NONE, _ONE, _TWO = map(ctypes.c_ulong, range(3))
_CLOCK_MONOTONIC = 1
_PROCESS_SHARED = _ROBUST = 1

_quick = ctypes.PyDLL(None)
_slow = ctypes.CDLL(None, use_errno=True)

trylock = _quick.pthread_mutex_trylock
"""Lock the mutex that `byref` gives, if it is free. Returns 0 or an errno: EBUSY, EOWNERDEAD."""
unlock = _quick.pthread_mutex_unlock
"""Unlock the mutex. Returns 0, or EPERM if this thread does not own it."""
consistent = _quick.pthread_mutex_consistent
"""Declare a mutex usable that a lock call gave with EOWNERDEAD."""
_clocklock = getattr(_slow, "pthread_mutex_clocklock", None)


def lock_within(mutex: object, seconds: float) -> int:
    """Lock the mutex within so many seconds. Returns 0 or an errno: ETIMEDOUT, EOWNERDEAD.

    The call does not hold the GIL. Signal handlers of Python run after the call, not during it.
    """
    assert _clocklock is not None
    end_ns = time.monotonic_ns() + int(seconds * 1e9)
    end = (ctypes.c_long * 2)(*divmod(end_ns, 1_000_000_000))
    return int(_clocklock(mutex, _CLOCK_MONOTONIC, end))


def list_head() -> int:
    """Return the address of the head of this thread's list of robust mutexes."""
    head, length = ctypes.c_size_t(), ctypes.c_size_t()
    if _slow.syscall(_SYS_get_robust_list, ctypes.c_long(0), ctypes.byref(head), ctypes.byref(length)):
        libc.raise_errno()
    return head.value


def only_tail() -> bytes:
    """Return the tail of a mutex that is the only robust one that this thread holds. Raises `OSError`, as `kind`."""
    head = list_head()
    return struct.pack("QQQ", kind(), head, head)


def is_own_thread(thread_id: int) -> bool:
    """Tell whether a thread of this process has that id."""
    ids = ctypes.c_int(os.getpid()), ctypes.c_int(thread_id)
    return thread_id > 0 and _slow.syscall(_SYS_tgkill, *ids, ctypes.c_int(0)) == 0


def links_intact(node: int, previous: int, following: int) -> bool:
    """Tell whether the neighbours of a list node, wherever they are, name that node as their neighbour.

    Reads through the kernel, so that an address where nothing is mapped is an answer and not a fault. A kernel that
    refuses such reads (seccomp) leaves the pointers unchecked.
    """
    seen = (ctypes.c_uint64 * 2)()
    here = (ctypes.c_size_t * 2)(ctypes.addressof(seen), 16)
    there = (ctypes.c_size_t * 4)(previous, 8, following - 8 & (1 << 64) - 1, 8)
    got = _slow.syscall(_SYS_process_vm_readv, ctypes.c_int(os.getpid()), here, _ONE, there, _TWO, _NONE)
    if got < 0 and ctypes.get_errno() != errno.EFAULT:
        return True
    return got == 16 and seen[0] == seen[1] == node


@cache
def kind() -> int:
    """Return the word that makes 40 zero bytes an unlocked robust mutex between processes.

    Facts: the C library can refuse a second lock by the same thread (PTHREAD_MUTEX_ERRORCHECK). It compares thread ids,
    and in two PID namespaces two threads may have the same id. Decision: the mutex does not compare.
    Facts: glibc's initial mutex is zero but for its kind. Two processes that both write the same kind into zero bytes
    do not disturb each other. Decision: mutexes are made in this way, and no process has to be the first.
    Raises `OSError` (EOPNOTSUPP) if this C library's mutexes are of another form, as those of musl are.
    """
    made = (ctypes.c_uint64 * 5)()
    attributes = ctypes.create_string_buffer(64)
    if _clocklock is None or sys.byteorder != "little" or os.uname().machine != "x86_64":
        raise OSError(95, "robust mutexes are supported with glibc 2.30 or newer on x86-64")
    _quick.pthread_mutexattr_init(attributes)
    _quick.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED)
    _quick.pthread_mutexattr_setrobust(attributes, _ROBUST)
    _quick.pthread_mutex_init(made, attributes)
    fresh = made[:]
    head = list_head()
    locked = trylock(made) == 0
    held = made[:]
    unlock(made)
    node = ctypes.addressof(made) + NODE_BYTE
    offset = ctypes.c_long.from_address(head + 8).value
    if not (
        fresh == [0, 0, fresh[KIND], 0, 0]
        and 0 < fresh[KIND] < 1 << 32
        and locked
        and held[LOCK] == get_native_id() | 1 << 32
        and held[KIND] == fresh[KIND]
        and held[PREVIOUS] == head
        and ctypes.addressof(made) - node == offset
        and made[LOCK] & THREAD_MASK == made[PREVIOUS] == made[NEXT] == 0
    ):
        raise OSError(95, "the robust mutexes of this C library have a form that mshare does not know")
    return fresh[KIND]
