"""What can be measured: mshare and whatever else shares memory, behind one protocol, so that all of them go through
exactly the same code. May depend on: attachment, backend, backends, creation, removal, geometry, numpy.

`attach` and `Attachment.close` are timed: they do what a user of that library would write and nothing more.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from importlib import import_module
from multiprocessing import resource_tracker, shared_memory
from typing import Protocol, cast

from .._core import attachment, backends, creation, removal
from .._core.backend import find
from .._core.geometry import PUD

_PAGE = 4096
_TRACKS_ALWAYS = sys.version_info < (3, 13)


class Attachment(Protocol):
    """Memory attached to this process."""

    @property
    def buf(self) -> memoryview | None: ...

    def close(self) -> None:
        """Detach."""


class Mechanism(Protocol):
    """Something that shares memory between processes."""

    @property
    def label(self) -> str:
        """What tables call it."""

    @property
    def shares_tables(self) -> bool:
        """True if processes have the last level of their page tables in common, whole GiB of it."""

    @property
    def spec(self) -> str:
        """`module:class[:argument]`: how another process makes the same mechanism (see `load`)."""

    def create(self, name: str, size_bytes: int) -> str:
        """Make `size_bytes` of shared memory, detach, and return what `attach` needs to find it."""

    def attach(self, token: str) -> Attachment:
        """Attach what `create` made."""

    def leave(self, token: str) -> None:
        """Undo what attaching has done beyond the mapping. Called once, after the last detach, outside every timing."""

    def destroy(self, token: str) -> None:
        """Remove it."""


def load(spec: str) -> Mechanism:
    """Return the mechanism that `spec` names."""
    module, name, *arguments = spec.split(":")
    return cast(Mechanism, getattr(import_module(module), name)(*arguments))


class Mshare:
    """Our regions, on one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.label = f"mshare {backend}"
        two = find(backends.ALL, backend).costs(PUD, 2)
        self.shares_tables = two.leaf_total < 2 * two.leaf_process
        self.spec = f"{__name__}:Mshare:{backend}"

    def create(self, name: str, size_bytes: int) -> str:
        creation.create(name, size_bytes, backend=self.backend).close()
        return name

    def attach(self, token: str) -> Attachment:
        return attachment.attach(token)

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        removal.unlink(token)


class SharedMemory:
    """The standard library's `multiprocessing.shared_memory`.

    Fact: before Python 3.13 every attaching process tells its resource tracker, which removes the segment when that
    process ends, though others use it (cpython #82300). Decision: attach with `track=False` where it exists, the
    faster way; else `leave` takes the message back. The first attach of a process then starts that process's tracker.
    """

    label = "multiprocessing.shared_memory"
    shares_tables = False
    spec = f"{__name__}:SharedMemory"

    def create(self, name: str, size_bytes: int) -> str:
        shared_memory.SharedMemory(name, create=True, size=size_bytes).close()
        return name

    def attach(self, token: str) -> Attachment:
        if _TRACKS_ALWAYS:
            return shared_memory.SharedMemory(token)
        return shared_memory.SharedMemory(token, track=False)  # type: ignore[call-arg,unused-ignore]

    def leave(self, token: str) -> None:
        if _TRACKS_ALWAYS:
            resource_tracker.unregister(f"/{token}", "shared_memory")

    def destroy(self, token: str) -> None:
        segment = shared_memory.SharedMemory(token)
        segment.close()
        segment.unlink()


class _Page:
    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _PAGE)
        self.buf: memoryview | None = memoryview(self._page)

    def close(self) -> None:
        self.buf = None
        self._page.close()


class Nothing:
    """A process that shares nothing: what the measuring itself costs. Maps one page of its own, whatever the size."""

    label = "nothing (baseline)"
    shares_tables = False
    spec = f"{__name__}:Nothing"

    def create(self, name: str, size_bytes: int) -> str:
        del size_bytes
        return name

    def attach(self, token: str) -> Attachment:
        del token
        return _Page()

    def leave(self, token: str) -> None:
        pass

    def destroy(self, token: str) -> None:
        pass


def touch_every_page(buf: memoryview) -> None:
    """Write one byte to every 4 KiB page, in C speed: the kernel then has given, and zeroed, all of the memory. What is
    read-only, and was written by its creator, is read instead."""
    if buf.readonly:
        buf[::_PAGE].tobytes()
        return
    try:
        import numpy
    except ImportError:
        ctypes.memset((ctypes.c_ubyte * len(buf)).from_buffer(buf), 0, len(buf))
    else:
        numpy.frombuffer(buf, numpy.uint8)[::_PAGE] = 0
