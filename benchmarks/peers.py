"""Other ways to share memory, behind `mshare.measure`'s protocol. Each does what its documentation shows."""

from __future__ import annotations

import mmap
import os
from importlib.util import find_spec
from typing import Any

from mshare.measure import Mshare, Nothing, Peer, SharedMemory
from mshare.measure.peers import Attachment


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

    def create(self, name: str, size_bytes: int) -> str:
        import posix_ipc

        posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=size_bytes).close_fd()
        return name

    def attach(self, token: str) -> Attachment:
        import posix_ipc

        segment = posix_ipc.SharedMemory(f"/{token}")
        mapped = mmap.mmap(segment.fd, segment.size)
        segment.close_fd()
        return _Mapped(mapped)

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        import posix_ipc

        posix_ipc.unlink_shared_memory(f"/{token}")


class _Array:
    """An array of SharedArray as an attachment: it detaches when the last reference goes."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.buf: memoryview | None = memoryview(array)

    def close(self) -> None:
        self.buf = None
        self._array = None


class SharedArray:
    """numpy arrays on /dev/shm by the package SharedArray."""

    label = "SharedArray"
    shares_tables = False
    spec = f"{__name__}:SharedArray"

    def create(self, name: str, size_bytes: int) -> str:
        import numpy
        import SharedArray as package

        package.create(f"shm://{name}", size_bytes, numpy.uint8)
        return name

    def attach(self, token: str) -> Attachment:
        import SharedArray as package

        return _Array(package.attach(f"shm://{token}"))

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        import SharedArray as package

        package.delete(f"shm://{token}")


class Memfd:
    """A bare memfd: the least there can be. Others reach it through /proc, as nothing else has its name."""

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


def all_peers(backends: list[str]) -> tuple[list[Peer], list[str]]:
    """Return the baseline, mshare on each of `backends`, every peer that is installed, and what is not."""
    peers: list[Peer] = [Nothing(), *(Mshare(backend) for backend in backends), SharedMemory(), Memfd()]
    missing = []
    for module, peer in (("posix_ipc", PosixIpc()), ("SharedArray", SharedArray())):
        if find_spec(module):
            peers.append(peer)
        else:
            missing.append(f"{module} is missing: pip install {module}")
    return peers, missing
