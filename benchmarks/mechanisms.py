"""Other ways to share memory, behind `mshare.measure`'s protocol. Each does what its documentation shows.

A mechanism imports its library when it is made, so that no timing contains the import.

May depend on: measure.
"""

from __future__ import annotations

import mmap
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mshare.measure import Mechanism, Mshare, Nothing, SharedMemory
from mshare.measure.mechanisms import Attachment


class _Mapped:
    """A `mmap.mmap` as an attachment."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.buf: memoryview | None = memoryview(mapped)

    def close(self) -> None:
        if self.buf is not None:
            self.buf.release()
        self.buf = None
        self._mapped.close()


class PosixIpc:
    """`shm_open` and `mmap` through the package posix_ipc."""

    label = "posix_ipc"
    shares_tables = False
    spec = f"{__name__}:PosixIpc"

    def __init__(self) -> None:
        self._package = import_module("posix_ipc")

    def create(self, name: str, size_bytes: int) -> str:
        self._package.SharedMemory(f"/{name}", self._package.O_CREX, size=size_bytes).close_fd()
        return name

    def attach(self, token: str) -> Attachment:
        segment = self._package.SharedMemory(f"/{token}")
        mapped = mmap.mmap(segment.fd, segment.size)
        segment.close_fd()
        return _Mapped(mapped)

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        self._package.unlink_shared_memory(f"/{token}")


class Held:
    """Anything with the buffer protocol as an attachment: it detaches when the last reference goes."""

    def __init__(self, holder: Any) -> None:
        self._holder = holder
        self.buf: memoryview | None = memoryview(holder)

    def close(self) -> None:
        self.buf = None
        self._holder = None


class SharedArray:
    """numpy arrays on /dev/shm by the package SharedArray."""

    label = "SharedArray"
    shares_tables = False
    spec = f"{__name__}:SharedArray"

    def __init__(self) -> None:
        self._package = import_module("SharedArray")

    def create(self, name: str, size_bytes: int) -> str:
        self._package.create(f"shm://{name}", size_bytes, "uint8")
        return name

    def attach(self, token: str) -> Attachment:
        return Held(self._package.attach(f"shm://{token}"))

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        self._package.delete(f"shm://{token}")


class _Segment:
    """A segment of sysv_ipc as an attachment."""

    def __init__(self, segment: Any) -> None:
        self._segment = segment
        self.buf: memoryview | None = memoryview(segment)

    def close(self) -> None:
        if self.buf is not None:
            self.buf.release()
        self.buf = None
        self._segment.detach()


class SysV:
    """`shmget` and `shmat` through the package sysv_ipc, with 4 KiB pages or with SHM_HUGETLB."""

    shares_tables = False

    def __init__(self, pages: str = "small") -> None:
        self._package = import_module("sysv_ipc")
        self._flags = self._package.IPC_CREX | (self._package.SHM_HUGETLB if pages == "huge" else 0)
        self.label = "sysv_ipc SHM_HUGETLB" if pages == "huge" else "sysv_ipc"
        self.spec = f"{__name__}:SysV:{pages}"

    def create(self, name: str, size_bytes: int) -> str:
        del name  # segments have numbers, not names
        segment = self._package.SharedMemory(None, self._flags, size=size_bytes)
        segment.detach()
        return str(segment.key)

    def attach(self, token: str) -> Attachment:
        return _Segment(self._package.SharedMemory(int(token)))

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        segment = self._package.SharedMemory(int(token))
        segment.detach()
        segment.remove()


class Memfd:
    """A bare memfd: the simplest mechanism. Others reach the memfd through /proc, because a memfd has no name."""

    label = "memfd (bare)"
    shares_tables = False
    spec = f"{__name__}:Memfd"

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def create(self, name: str, size_bytes: int) -> str:
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, size_bytes)
        token = f"/proc/{os.getpid()}/fd/{fd}"
        self._fds[token] = fd
        return token

    def attach(self, token: str) -> Attachment:
        fd = os.open(token, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _Mapped(mmap.mmap(fd, 0))
        finally:
            os.close(fd)

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        os.close(self._fds.pop(token))


def all_mechanisms(backends: list[str]) -> tuple[list[Mechanism], list[str]]:
    """Return the baseline, mshare on each of `backends`, every installed mechanism, and notes on missing ones."""
    mechanisms: list[Mechanism] = [Nothing(), *(Mshare(backend) for backend in backends), SharedMemory(), Memfd()]
    missing = []
    for module, mechanism in (("posix_ipc", PosixIpc), ("SharedArray", SharedArray)):
        if find_spec(module):
            mechanisms.append(mechanism())
        else:
            missing.append(f"{module} is missing: pip install {module}")
    return mechanisms, missing
