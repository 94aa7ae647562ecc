"""mmap, munmap and madvise at a chosen address, which Python's own `mmap` module cannot do. May depend on: held.

Mappings are made with `MAP_NORESERVE`: on hugetlbfs any other mapping would promise the whole file to itself.
Each raises `OSError` with the kernel's errno. The callers turn the errors into those of mshare.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from . import held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED = 0x01
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MAP_FIXED_NOREPLACE = 0x100000
"""Linux 4.17 (commit a4ff8e8620d3): fail with EEXIST instead of replacing the mapping at the address."""
MADV_DONTNEED = 4
MADV_REMOVE = 9
"""Linux 2.6.16: give the memory of a shared mapping's file back to the system. The file keeps its size."""
MADV_DONTFORK = 10
MADV_POPULATE_READ = 22
"""Linux 5.14 (commit 4ca9b3859dac): fill the page tables; what would be SIGBUS is EFAULT."""
MADV_COLLAPSE = 25
"""Linux 6.1 (commit 7d8faaf15545): make 2 MiB pages of a range now, with any THP settings."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_SIGSET_WORDS = 16
"""Words of a sigset_t."""
_SIG_SETMASK = 2
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_FAILED = ctypes.c_void_p(-1).value


def raise_errno() -> NoReturn:
    """Raise the `OSError` of the last call through ctypes."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def mmap_into(at: list[int], fd: int, length: int, *, writable: bool, addr: int | None = None, offset: int = 0) -> None:
    """Map `length` bytes of `fd` with MAP_SHARED and put the address into `at`, before any signal handler can run.

    With `addr` the mapping lies at that address, or the call fails (`MAP_FIXED_NOREPLACE`, EEXIST). The mapping keeps
    the open file description alive, and thereby every lock taken through `fd`, even after `fd` is closed and in forked
    children.
    """
    flags = MAP_SHARED | MAP_NORESERVE | (MAP_FIXED_NOREPLACE if addr is not None else 0)
    prot = PROT_READ | (PROT_WRITE if writable else 0)
    got = held.take(at, _libc.mmap, (addr, length, prot, flags, fd, offset), unless=_FAILED)
    if got == _FAILED:
        raise_errno()
    if addr is not None and got != addr:  # kernels before 4.17 take the flag for a hint
        munmap_from(at, length)
        raise OSError(17, os.strerror(17))


def remap(fd: int, length: int, *, writable: bool, addr: int) -> None:
    """Put a mapping of `fd` in the place of the one at `addr`, in one step."""
    prot = PROT_READ | (PROT_WRITE if writable else 0)
    if _libc.mmap(addr, length, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == _FAILED:
        raise_errno()


def promise(fd: int, length: int, offset: int) -> None:
    """Have hugetlbfs promise a range of an open file all pages that the range lacks, or none (ENOMEM).

    A shared mapping without `MAP_NORESERVE` does that (`hugetlb_reserve_pages` in mm/hugetlb.c). The file keeps the
    promise when the mapping is gone.
    """
    at: list[int] = []
    try:
        if held.take(at, _libc.mmap, (None, length, PROT_READ, MAP_SHARED, fd, offset), unless=_FAILED) == _FAILED:
            raise_errno()
    finally:
        munmap_from(at, length)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2) once. Raises `OSError`: EINTR if a signal has arrived, unlike `os.posix_fallocate`."""
    if _libc.fallocate(fd, mode, offset, length):
        raise_errno()


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Return a duplicate of a descriptor of another process. The caller needs the right to ptrace that process. Linux
    5.6 (commit 8649c322f75c)."""
    got = int(_libc.syscall(ctypes.c_long(438), ctypes.c_int(pidfd), ctypes.c_int(number), ctypes.c_uint(0)))
    if got < 0:
        raise_errno()
    return got


def process_madvise(pidfd: int, addr: int, length: int, advice: int) -> None:
    """Give the kernel `advice` about `length` bytes at `addr` of another process. Linux 5.10 (commit ecb8ac8b1f14).

    It needs the right to ptrace the process, and CAP_SYS_NICE. Raises `OSError`: ESRCH if the process has ended.
    """
    vector = (ctypes.c_size_t * 2)(addr, length)  # struct iovec
    done = _libc.syscall(
        ctypes.c_long(440), ctypes.c_int(pidfd), vector, ctypes.c_size_t(1), ctypes.c_int(advice), ctypes.c_uint(0)
    )
    if done < 0:
        raise_errno()


def munmap_from(at: list[int], length: int) -> None:
    """Take the address out of `at` and unmap `length` bytes there, in one step. If `at` is empty, do nothing."""
    if held.give_back(at, _libc.munmap, length):
        raise_errno()


@contextmanager
def mapped(fd: int, length: int, *, addr: int | None = None, offset: int = 0) -> Iterator[int]:
    """Map `length` bytes of `fd` read-write for the time of a `with` block, which gets the address. See `mmap_into`."""
    at: list[int] = []
    try:
        mmap_into(at, fd, length, writable=True, addr=addr, offset=offset)
        yield at[0]
    finally:
        munmap_from(at, length)


def without_signals(call: Callable[[], None]) -> None:
    """Call `call` while this thread takes no signal that can be blocked. Signals that arrive are handled afterwards."""
    before, every = (ctypes.c_ulong * _SIGSET_WORDS)(), (ctypes.c_ulong * _SIGSET_WORDS)(*[~0] * _SIGSET_WORDS)
    _libc.pthread_sigmask(_SIG_SETMASK, None, before)
    restore = partial(_libc.pthread_sigmask, _SIG_SETMASK, before, None)  # one step in C, which no handler interrupts
    try:
        _libc.pthread_sigmask(_SIG_SETMASK, every, None)
        call()
    finally:
        restore()


def madvise(addr: int, length: int, advice: int) -> None:
    """Give the kernel `advice` about `length` bytes at `addr`."""
    if _libc.madvise(addr, length, advice):
        raise_errno()


def has_collapse() -> bool:
    """Tell whether the kernel knows MADV_COLLAPSE. Of no byte it does nothing, and EINVAL is for unknown advice."""
    return bool(_libc.madvise(0, 0, MADV_COLLAPSE) == 0)


def mincore(addr: int, length: int) -> bytes:
    """Return one byte for each page of a mapping: its lowest bit is set if the page is in memory. For a shared mapping
    that is whether the object has the page, whatever the page tables of this process say. Measured: 75 ns per page."""
    pages = bytearray(-(-length // 4096))
    if _libc.mincore(addr, length, (ctypes.c_char * len(pages)).from_buffer(pages)):
        raise_errno()
    return bytes(pages)


def lock_memory() -> None:
    """Keep the present mappings of this process in memory, its programs included (mlockall(2), MCL_CURRENT). The call
    needs CAP_IPC_LOCK or a high limit. Forks and new programs do not inherit the lock."""
    if _libc.mlockall(1):
        raise_errno()


def unlock_memory() -> None:
    """Undo `lock_memory`."""
    if _libc.munlockall():
        raise_errno()


def free_memory() -> tuple[int, int]:
    """Return the bytes of memory of this machine, and the bytes that are free, swap included, by sysinfo(2). The call
    works without /proc, and does not count reclaimable memory as free."""
    answer = (ctypes.c_ulong * 16)()  # larger than struct sysinfo, which has 14 words
    if _libc.sysinfo(answer):
        raise_errno()
    unit = answer[13] & 0xFFFFFFFF
    return answer[4] * unit, (answer[5] + answer[7] + answer[9]) * unit


def file_system_magic(path: str) -> int | None:
    """Return `f_type` of statfs(2) for the file system under `path`; None if statfs fails. Python's `statvfs` lacks
    the field."""
    answer = (ctypes.c_long * 32)()  # larger than any struct statfs, which begins with f_type
    return int(answer[0]) if _libc.statfs(os.fsencode(path), answer) == 0 else None
