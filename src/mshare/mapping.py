"""What this process has mapped: one `Mapping` per region and address, counted. May depend on: errors, geometry, linux.

Facts: a memoryview or numpy array keeps the object it was made from alive, and nothing else; memory under it must not
be unmapped before. A ctypes array at an address is such an object; how its death is noticed: `_watches`.
Decision: every `Region` has an exporter of its own, a ctypes array that all its views hang on. Each exporter is one
count of the mapping, taken back when the exporter dies, by whatever road: `close`, the last view, or the garbage
collector. At process exit the kernel unmaps; we register nothing.
"""

from __future__ import annotations

import ctypes
import errno
import weakref
from collections.abc import Callable
from types import CodeType

from .errors import AddressTakenError, InvalidAddressError, NoSpaceError, ReadOnlyMappingError
from .geometry import USER_END, Span
from .linux import descriptors, libc, proc
from .procfs import FileId
from .units import format_size

Exporter = ctypes.Array[ctypes.c_ubyte]

lock = descriptors.lock
"""Protects `_table`, every mapping's count, and the exporters of regions, over forks, too."""

_table: dict[tuple[FileId, int], Mapping] = {}

_ANCHOR = (lambda: None).__code__
_watches: dict[int, weakref.ref[CodeType]] = {}
"""What tells us of the death of exporters.

Facts: where an exporter is part of a cycle, the collector calls the weak references to it before it calls any `__del__`
in that cycle, and such a `__del__` may read the region, or keep an array of it alive for good. It does not look at
objects that it does not track, such as code objects: their weak references are called when they are really freed.
Decision: each exporter carries a code object of its own, and that one is watched. By identity: code objects that look
alike are equal, and so are their weak references.
"""


class Mapping:
    """Addresses of this process that show a region. Made by `map_file`, held once; found by `find`."""

    def __init__(self, file: FileId, addr: int, length: int, writable: bool) -> None:
        self.file = file
        self.addr = addr
        self.length = length
        self.writable = writable
        self.region_name = ""
        """For messages; /proc has no name for what was mapped before it got one."""
        self._count = 1
        self.exporters = 0
        """How many of the counts are exporters that are alive."""

    def export(self, size_bytes: int) -> Exporter:
        """Return a new exporter over the first `size_bytes`, counted until it dies."""
        with lock:
            self._count += 1
            self.exporters += 1
            exporter = (ctypes.c_ubyte * size_bytes).from_address(self.addr)
            anchor = _ANCHOR.replace(co_name="anchor")
            vars(exporter)["anchor"] = anchor
            watch = weakref.ref(anchor, self._release_exporter)
            _watches[id(watch)] = watch
            return exporter

    def _release_exporter(self, watch: weakref.ref[CodeType]) -> None:
        with lock:
            del _watches[id(watch)]
            self.exporters -= 1
            self.release()

    def hold(self) -> bool:
        """Take one count that is no exporter's; give it back with `release`. False, and no count, if the mapping is
        gone: a garbage collection can run anywhere, also between finding a mapping and holding it."""
        with lock:
            if self._count <= 0:
                return False
            self._count += 1
            return True

    def release(self) -> None:
        """Give one count back; with the last one the memory is unmapped and the kernel drops the attachment's lock."""
        with lock:
            self._count -= 1
            if self._count == 0:
                del _table[self.file, self.addr]
                libc.munmap(self.addr, self.length)


def find(file: FileId, addr: int, *, writable: bool) -> Mapping | None:
    """Return this process's mapping of `file` at `addr`, held once more, if there is one.

    Raises `ReadOnlyMappingError` if `writable` is asked and it is not.
    """
    mapping = _table.get((file, addr))
    if mapping is not None and writable and not mapping.writable:
        raise ReadOnlyMappingError(
            f"this process has the region mapped read-only at {addr:#x}",
            "close that one first, or attach with addr=mshare.ANYWHERE",
        )
    return mapping if mapping is not None and mapping.hold() else None


def all_of(region_name: str) -> list[Mapping]:
    """Return this process's mappings of regions that had this name when they were attached."""
    return [mapping for mapping in list(_table.values()) if mapping.region_name == region_name]


def map_file(
    fd: int, file: FileId, length: int, *, writable: bool, next_addr: Callable[[], int], fixed: bool
) -> Mapping:
    """Map the first `length` bytes of `fd` and return the mapping, held once (see `Mapping.hold`).

    `next_addr` gives the address; if something lies there and `fixed` is false, it is asked again.
    Raises `AddressTakenError` naming what lies there, `InvalidAddressError`, `NoSpaceError`, or `OSError`.
    """
    with lock:
        for _ in range(16):
            addr = next_addr()
            if addr + length > USER_END:
                raise _not_allowed(addr, length)
            try:
                libc.mmap_shared(fd, length, writable=writable, addr=addr)
            except FileExistsError as error:
                if not fixed:
                    continue
                raise _taken(Span(addr, addr + length)) from error
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EINVAL):  # below vm.mmap_min_addr; not whole huge pages
                    raise _not_allowed(addr, length) from error
                if error.errno != errno.ENOMEM:
                    raise
                raise NoSpaceError(
                    f"the kernel refused to map {format_size(length)} at {addr:#x}",
                    "check `ulimit -v`, free huge pages and free memory",
                ) from error
            mapping = Mapping(file, addr, length, writable)
            _table[file, addr] = mapping
            return mapping
        raise AddressTakenError("no free address was found in 16 tries", "pass addr= yourself")


def _not_allowed(addr: int, length: int) -> InvalidAddressError:
    return InvalidAddressError(
        f"the kernel lets no process map {format_size(length)} of this region at {addr:#x}",
        "choose another address, a multiple of 1 GiB say, or addr=mshare.ANYWHERE",
    )


def _taken(wanted: Span) -> AddressTakenError:
    vma = proc.mapping_in_the_way(wanted)
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
