"""What this process has mapped: one `Mapping` per region and address, with its owners. May depend on: limits, linux,
errors, units, geometry, procfs.

Facts: a memoryview or numpy array keeps the object it was made from alive, and nothing else; memory under it must not
be unmapped before. A ctypes array at an address is such an object.
Decision: a mapping is unmapped when the last of its owners lets go or dies. Owners are the open `Region`s, and one
for each exporter, the ctypes array that all views of a `Region` hang on. At process exit the kernel unmaps; we register
nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import weakref
from collections.abc import Callable

from . import limits
from .errors import AddressTakenError, InvalidAddressError, ReadOnlyMappingError
from .geometry import USER_END, Span
from .linux import descriptors, libc, proc
from .procfs import FileId
from .units import format_size

Exporter = ctypes.Array[ctypes.c_ubyte]

lock = descriptors.lock
"""Protects `_table`, every mapping's owners, and the exporters of regions, over forks, too."""

_table: dict[tuple[FileId, int], Mapping] = {}

_dead: list[weakref.ref[Owner]] = []
"""Owners that died before they let go: the collector's, for a moment, and those whose destructor was interrupted by a
signal handler. Put here by C, where none runs; the next `map_file` or `release` unmaps what they had."""

_BOX = (lambda: None).__code__
"""Facts: where an exporter is part of a cycle, the collector finalizes all of that cycle in any order, and a `__del__`
in it may read the region, or keep an array of it alive for good. The collector does not look into objects that it does
not track, such as code objects: what only they hold dies when they are really freed.
Decision: each exporter carries a code object of its own, with the exporter's `Owner` among its constants."""


class Owner:
    """What keeps a mapping in this process: a `Region`, or a mere hold, such as an exporter's. It lets go with
    `Mapping.release`, or when it is freed."""

    area: Mapping | None = None
    """The mapping, from before it is there (a signal handler may raise at any time) until it is let go of."""

    def __del__(self) -> None:
        if self.area is not None:
            self.area.release(self)


class Mapping:
    """Addresses of this process that show a region. Made by `map_file`; found by `find`."""

    def __init__(self, file: FileId, addr: int, length: int, writable: bool) -> None:
        self.file = file
        self.addr = addr
        self.length = length
        self.writable = writable
        self.region_name = ""
        """For messages; /proc has no name for what was mapped before it got one."""
        self.draft_of: int | None = None
        """The thread that is creating this region; None when it is there. Protected by `lock`."""
        self.at: list[int] = []
        """The address while it is mapped."""
        self._owners: dict[int, weakref.ref[Owner]] = {}
        """By id(), so that letting go twice, as an interrupted owner may, does no harm."""

    def owners(self) -> list[Owner]:
        """Return the owners that are alive."""
        return [owner for owner in (ref() for ref in list(self._owners.values())) if owner is not None]

    def hold(self, owner: Owner) -> bool:
        """Make `owner` an owner until its `release`. False if the mapping is gone: a garbage collection can run
        anywhere, also between finding a mapping and holding it."""
        with lock:
            if self.at:
                self.promise(owner)
            return bool(self.at)

    def promise(self, owner: Owner) -> None:
        """Make `owner` an owner of what is about to be mapped. Under `lock`, as the next four."""
        owner.area = self
        self._owners[id(owner)] = weakref.ref(owner, _dead.append)

    def unmap(self) -> None:
        """Unmap it, whoever holds it. A second call does nothing."""
        libc.munmap_from(self.at, self.length)
        if _table.get((self.file, self.addr)) is self:
            del _table[self.file, self.addr]

    def replace(self, fd: int, *, writable: bool) -> None:
        """Map `fd`, the same file opened otherwise, in its place."""
        libc.remap(fd, self.length, writable=writable, addr=self.addr)
        self.writable = writable

    def published(self, name: str) -> None:
        """The region is complete, and has its name, if it gets one: it is no draft any more."""
        self.draft_of = None
        self.region_name = name or self.region_name

    def release(self, owner: Owner) -> None:
        """Let go. With the last owner the memory is unmapped, and the kernel drops the attachment's lock."""
        with lock:
            if self._owners.keys() <= {id(owner)} or all(other is owner for other in self.owners()):
                self.unmap()
            self._owners.pop(id(owner), None)  # last: an owner that dies before is one of the `_dead`
            owner.area = None
            _unmap_ownerless()

    def export(self, size_bytes: int) -> Exporter | None:
        """Return a new exporter over the first `size_bytes`, which holds the mapping until it dies; None if the mapping
        is gone."""
        with lock:
            hold = Owner()
            if not self.hold(hold):
                return None
            exporter = (ctypes.c_ubyte * size_bytes).from_address(self.addr)
            vars(exporter)["anchor"] = _BOX.replace(co_consts=(hold,))
            return exporter


def _unmap_ownerless() -> None:
    """Unmap what has lost its last owner to an interrupt. Under `lock`."""
    if _dead:
        _dead.clear()
        for mapping in list(_table.values()):
            if not mapping.owners():
                mapping.unmap()


def find(file: FileId, addr: int, *, writable: bool, owner: Owner) -> Mapping | None:
    """Return this process's mapping of `file` at `addr`, held by `owner`, if there is one.

    Raises `ReadOnlyMappingError` if `writable` is asked and it is not.
    """
    mapping = _table.get((file, addr))
    if mapping is None or not mapping.hold(owner):
        return None
    if writable and not mapping.writable:
        mapping.release(owner)
        raise ReadOnlyMappingError(
            f"this process has the region mapped read-only at {addr:#x}",
            "close that one first, or attach with addr=mshare.ANYWHERE",
        )
    return mapping


def all_of(region_name: str, files: set[FileId]) -> list[Mapping]:
    """Return this process's mappings of these files, and of regions that had this name when they were attached."""
    return [
        mapping
        for mapping in list(_table.values())
        if mapping.file in files or (region_name and mapping.region_name == region_name)
    ]


def map_file(
    fd: int,
    file: FileId,
    length: int,
    *,
    writable: bool,
    next_addr: Callable[[], int],
    fixed: bool,
    owner: Owner,
    draft: bool = False,
) -> Mapping:
    """Map the first `length` bytes of `fd` and return the mapping, held by `owner`. Under `lock`.

    `next_addr` gives the address; if something lies there and `fixed` is false, it is asked again. `draft`: a child
    that another thread forks meanwhile shall not have it.
    Raises `AddressTakenError` naming what lies there, `InvalidAddressError`, `NoSpaceError`, or `OSError`.
    """
    _unmap_ownerless()
    for _ in range(16):
        addr = next_addr()
        if addr + length > USER_END:
            raise _not_allowed(addr, length)
        mapping = Mapping(file, addr, length, writable)
        mapping.draft_of = threading.get_ident() if draft else None
        mapping.promise(owner)
        try:
            libc.mmap_into(mapping.at, fd, length, writable=writable, addr=addr)
        except FileExistsError as error:
            if not fixed:
                continue
            raise _taken(Span(addr, addr + length)) from error
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EINVAL):  # below vm.mmap_min_addr; not whole huge pages
                raise _not_allowed(addr, length) from error
            if error.errno not in (errno.ENOMEM, errno.EAGAIN):
                raise
            raise limits.mapping_refused(error, length, addr) from error
        _table[file, addr] = mapping
        return mapping
    raise AddressTakenError("no free address was found in 16 tries", "pass addr= yourself")


def _not_allowed(addr: int, length: int) -> InvalidAddressError:
    return InvalidAddressError(
        f"the kernel lets no process map {format_size(length)} of this region at {addr:#x}",
        "choose another address, a multiple of 1 GiB say, or addr=mshare.ANYWHERE",
    )


def _taken(wanted: Span) -> AddressTakenError:
    try:
        vma = proc.mapping_in_the_way(wanted)
    except OSError:  # no /proc
        vma = None
    what = "another mapping"
    if vma is not None:
        path = vma.path.decode("utf-8", "backslashreplace") or "anonymous memory"
        ours = next((m for m in _table.values() if Span(m.addr, m.addr + m.length).overlaps(wanted)), None)
        if ours is not None and ours.region_name:
            path = f"region {ours.region_name!r}"
        what = f"{path} ({vma.span.start:#x}-{vma.span.end:#x} {vma.perms})"
    return AddressTakenError(
        f"addresses {wanted.start:#x}-{wanted.end:#x} are taken in this process by {what}",
        "unmap that, or attach elsewhere with addr=mshare.ANYWHERE",
    )


def _after_fork_in_child() -> None:
    """Drop what threads that this child does not have were creating: nobody here would ever."""
    for mapping in list(_table.values()):
        if mapping.draft_of not in (None, threading.get_ident()):
            mapping.unmap()


os.register_at_fork(after_in_child=_after_fork_in_child)
