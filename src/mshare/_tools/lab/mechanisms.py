"""Mechanisms to share a region: the work of its creator, and a later attach by name. May depend on: backends,
creation, attachment, removal, linux, geometry.

Clients of all mechanisms but one attach alike: `open` and `mmap` at the address (see `zygote`).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path
from typing import NamedTuple

from ..._core import attachment, backends, creation, removal
from ..._core.geometry import PAGE, PMD, WINDOW, round_up
from ..._core.linux import proc

_kept: list[object] = []
"""Objects that must not be closed while this process lives."""


class Place(NamedTuple):
    """The place where clients find the region."""

    kind: str
    """The way of attaching: `file`, `shared_memory`, or `nothing` for clients that attach nothing."""
    path: str
    """The file; for `shared_memory` the name."""
    addr: int
    map_bytes: int
    size_bytes: int


NOTHING = Place("nothing", "", 0, 0, 0)


class LabMechanism(NamedTuple):
    """A mechanism for sharing memory, as the lab needs it."""

    name: str
    """On the command line and in results."""
    label: str
    """In tables and pictures."""
    create: Callable[[str, int, bool], tuple[Place, memoryview]]
    """Make a region of that name and size, with its memory unless sparse, mapped into this process."""
    newcomer: Callable[[str, int], memoryview]
    """Attach it, in a process that has just started, by name."""
    charged: bool = True
    """A memory control group counts the region's memory: it is not from the pool of huge pages."""
    usual: bool = True
    """Part of a run that names no mechanism."""


def _plain_path(name: str) -> Path:
    return Path("/dev/shm") / name


def _create_plain(name: str, size: int, sparse: bool) -> tuple[Place, memoryview]:
    """As `shm_open` and `ftruncate`, without mshare. Memory comes with the first touch, sparse or not."""
    del sparse
    path = _plain_path(name)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.truncate(fd, size)
    view = memoryview(mmap.mmap(fd, size))
    os.close(fd)
    return Place("file", str(path), WINDOW[0], round_up(size, PAGE), size), view


def _newcomer_plain(name: str, size: int) -> memoryview:
    fd = os.open(_plain_path(name), os.O_RDWR)
    return memoryview(mmap.mmap(fd, size))


def _create_standard(name: str, size: int, sparse: bool) -> tuple[Place, memoryview]:
    del sparse
    segment = shared_memory.SharedMemory(name, create=True, size=size)
    _kept.append(segment)
    assert segment.buf is not None
    return Place("shared_memory", name, 0, 0, size), segment.buf


def _newcomer_standard(name: str, size: int) -> memoryview:
    segment = shared_memory.SharedMemory(name)
    _kept.append(segment)
    assert segment.buf is not None
    return segment.buf[:size]


def _create_on(backend: str) -> Callable[[str, int, bool], tuple[Place, memoryview]]:
    def create(name: str, size: int, sparse: bool) -> tuple[Place, memoryview]:
        region = creation.create(name, size, backend=backend, reserve=not sparse)
        _kept.append(region)
        length = next(vma.span.end - vma.span.start for vma in proc.maps() if vma.span.start == region.addr)
        return Place("file", str(region.info().path), region.addr, length, size), region.buf

    return create


def _newcomer(name: str, size: int) -> memoryview:
    region = attachment.attach(name)
    _kept.append(region)
    return region.buf[:size]


MECHANISMS = {
    mechanism.name: mechanism
    for mechanism in (
        LabMechanism("plain", "tmpfs + mmap", _create_plain, _newcomer_plain),
        LabMechanism("shared_memory", "multiprocessing.shared_memory", _create_standard, _newcomer_standard),
        *(
            LabMechanism(
                backend.name,
                f"mshare {backend.name}",
                _create_on(backend.name),
                _newcomer,
                charged=not backend.costs(PMD, 1).huge_pages,
                usual=backend is not backends.BASELINE,  # has the page tables of `plain`
            )
            for backend in reversed(backends.ALL)
        ),
    )
}
"""In the order in which they are shown."""


def remove(mechanism: str, name: str) -> None:
    """Remove the region's name, if there is one: the creator may be dead, or may never have made the name."""
    with suppress(FileNotFoundError):
        if mechanism == "plain":
            _plain_path(name).unlink()
        elif mechanism == "shared_memory":
            # Not through SharedMemory, which would hand the name to a resource tracker of this process.
            Path("/dev/shm", name).unlink()
        else:
            removal.unlink(name)
