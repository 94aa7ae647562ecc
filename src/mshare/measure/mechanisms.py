"""Measured mechanisms: mshare and other ways to share memory, behind one protocol, so that all of them go through
exactly the same code. May depend on: attachment, backend, backends, creation, removal, geometry, numpy.

`attach` and `Attachment.close` are timed. Both have only the code that a user of that library would write.
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
    """A way to share memory between processes."""

    @property
    def label(self) -> str:
        """The mechanism's name in tables."""

    @property
    def shares_tables(self) -> bool:
        """True if processes share the last level of their page tables, in whole GiB."""

    @property
    def spec(self) -> str:
        """`module:class[:argument]`, from which another process makes the same mechanism (see `load`)."""

    def create(self, name: str, size_bytes: int) -> str:
        """Make `size_bytes` of shared memory, detach, and return a token by which `attach` finds the memory."""

    def attach(self, token: str) -> Attachment:
        """Attach the memory that `create` made."""

    def leave(self, token: str) -> None:
        """Undo the other effects of attaching. Called once, after the last detach, outside every timing."""

    def destroy(self, token: str) -> None:
        """Remove the memory."""


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

    Before Python 3.13 every attaching process tells its resource tracker, which removes the segment when that process
    ends, even if others use the segment (cpython #82300). This class therefore attaches with `track=False` if Python
    has that argument, which is faster. Otherwise `leave` takes the message back, and the first attach of a process
    starts that process's tracker.
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
    """A process that shares nothing shows the cost of measuring. It maps one private page, for any size."""

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
    """Write one byte to every 4 KiB page, in C speed. The kernel has then given, and zeroed, all of the memory. Memory
    that is read-only, and was written by its creator, is read instead."""
    if buf.readonly:
        buf[::_PAGE].tobytes()
        return
    try:
        import numpy
    except ImportError:
        ctypes.memset((ctypes.c_ubyte * len(buf)).from_buffer(buf), 0, len(buf))
    else:
        numpy.frombuffer(buf, numpy.uint8)[::_PAGE] = 0
