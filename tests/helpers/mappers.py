"""Processes with known mappings, and the growth of page tables that each of them has measured in itself.

As a program, this module is the parent of such processes. The program uses only the standard library, so that the
processes are small. The program makes one object and forks. Each child maps the object in its own way, touches the
object and reports the growth of `VmPTE`. All children stay until standard input ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

PAGE, PMD, PUD = 1 << 12, 1 << 21, 1 << 30
LONELY = 0x3000_0000_0000
"""An address in an otherwise empty GiB, and empty 512 GiB: all tables there belong to this mapping."""


@dataclass(frozen=True)
class Mapping:
    """The way in which one object is made, mapped and touched."""

    kind: str = "memfd"
    """memfd, tmpfs (path), file (path), sysv, anonymous, hugetlb (memfd of 2 MiB pages)."""
    size: int = 64 << 20
    processes: int = 3
    addr: int = LONELY
    """The address, or 0: the kernel chooses."""
    step: int = PAGE
    """Bytes from one touched place to the next."""
    part: float = 1.0
    """The part of the object, from its start, that is touched."""
    writable: bool = True
    collapse: bool = False
    """Make 2 MiB pages of the object (MADV_COLLAPSE)."""
    inherited: bool = False
    """The parent maps and touches the object before the fork. The children inherit the mapping and touch it again."""
    path: str = ""
    """The file, or the name of a memfd."""
    reserve: bool = True
    """Take the memory before the mapping, because nobody may write through the mapping."""
    pieces: int = 1
    """The number of mappings into which the object is cut: every second page loses the right to write."""


class Mapped(NamedTuple):
    """Living processes with that mapping."""

    parent: int
    pids: tuple[int, ...]
    growth: tuple[int, ...]
    """The growth of each process's `VmPTE`, in bytes, by mapping and touching."""


@contextmanager
def mapped(mapping: Mapping, *prefix: str) -> Iterator[Mapped]:
    """Start the processes with a command `prefix` (unshare, setpriv), yield their reports, and end the processes."""
    command = [*prefix, sys.executable, "-S", "-I", __file__, json.dumps(asdict(mapping))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            found = [json.loads(parent.stdout.readline()) for _ in range(mapping.processes)]
            pids, growth = zip(*sorted(found), strict=True)
            yield Mapped(parent.pid, pids, growth)
        finally:
            parent.stdin.close()
            assert parent.wait(60) == 0


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = _libc.shmat.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_SHARED, _FIXED, _NORESERVE, _COLLAPSE = 1, 0x10, 0x4000, 25


def _check(result: int | None) -> int:
    if result is None or result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _vmpte() -> int:
    lines = Path("/proc/self/status").read_bytes().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"VmPTE"))


def _make(mapping: Mapping) -> int:
    """Return a descriptor of the object, or the id of SysV memory."""
    if mapping.kind == "sysv":
        return _check(_libc.shmget(0, ctypes.c_size_t(mapping.size), 0o1600))
    if mapping.kind in ("tmpfs", "file"):
        fd = os.open(mapping.path, os.O_RDWR | os.O_CREAT, 0o600)
    elif mapping.kind == "anonymous":
        return -1
    else:
        fd = _check(_libc.memfd_create(os.fsencode(mapping.path or "known"), 4 if mapping.kind == "hugetlb" else 0))
    os.ftruncate(fd, mapping.size)
    return fd


def _map(mapping: Mapping, fd: int) -> int:
    addr = mapping.addr or None
    if mapping.kind == "sysv":
        return _check(_libc.shmat(fd, addr, 0 if mapping.writable else 0o10000))
    flags = _SHARED | _NORESERVE | (_FIXED if addr else 0) | (0x20 if fd < 0 else 0)
    return _check(_libc.mmap(addr, mapping.size, 3 if mapping.writable else 1, flags, fd, 0))


def _touch(mapping: Mapping, addr: int) -> None:
    end = int(mapping.size * mapping.part)
    buffer = (ctypes.c_ubyte * mapping.size).from_address(addr)
    if mapping.writable:
        for at in range(0, end, mapping.step):
            buffer[at] = 1
    else:
        for at in range(0, end, mapping.step):
            buffer[at]


def _main(mapping: Mapping) -> None:
    fd = _make(mapping)
    addr = 0
    if mapping.inherited or mapping.kind == "anonymous":
        addr = _map(mapping, fd)
        if mapping.inherited:
            _touch(mapping, addr)
    elif mapping.collapse:
        whole = Mapping(**{**asdict(mapping), "step": PMD, "part": 1.0, "writable": True})
        _touch(whole, _map(whole, fd))
        _check(_libc.madvise(ctypes.c_void_p(mapping.addr), ctypes.c_size_t(mapping.size), _COLLAPSE))
        _check(_libc.munmap(ctypes.c_void_p(mapping.addr), ctypes.c_size_t(mapping.size)))
    elif not mapping.writable and mapping.reserve and mapping.kind != "sysv":
        os.posix_fallocate(fd, 0, mapping.size)
    reader, writer = os.pipe()
    children = []
    for _ in range(mapping.processes):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(writer)
                before = _vmpte()
                before = _vmpte()  # the first reading's own cost is in the figure from now on
                at = addr or _map(mapping, fd)
                _touch(mapping, at)
                for piece in range(1, mapping.pieces, 2):
                    _check(_libc.mprotect(ctypes.c_void_p(at + piece * PAGE), ctypes.c_size_t(PAGE), 1))
                report = json.dumps([os.getpid(), _vmpte() - before])
                os.write(1, report.encode() + b"\n")
                os.read(reader, 1)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(reader)
    sys.stdin.read()
    os.close(writer)
    for pid in children:
        os.waitpid(pid, 0)
    if mapping.kind == "sysv":
        _check(_libc.shmctl(fd, 0, None))


if __name__ == "__main__":
    _main(Mapping(**json.loads(sys.argv[1])))
