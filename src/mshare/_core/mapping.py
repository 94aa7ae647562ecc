"""The mappings of this process: one `Mapping` per region and address, with its owners. May depend on: limits, linux,
errors, units, geometry, procfs.

Facts: a memoryview or numpy array keeps only the object from which it was made alive. The memory under a view must not
be unmapped while the view lives. A ctypes array at an address can be such an object.
Decision: a mapping is unmapped when its last owner releases it or dies. The owners are the attachments of open
`Region`s, and one owner for each exporter, the ctypes array that all views of a `Region` keep alive. At process exit
the kernel unmaps; we register nothing.

Facts: a signal handler, and a finalizer that the garbage collector calls, run in the middle of a call of the same
thread, which may hold `lock` already. Either may attach or close the same region. Either is over, or has raised,
before the call goes on.
Consequence: the lock does not separate them. The state that a call has seen may have changed when the call acts.
Decision: each change is one step in C, and nothing has to be undone. One `dict.pop` releases an owner. A mapping
without owners is never held again. A thread that finds such a mapping unmaps it: the one thread that takes the address
out of `at` calls munmap. A mapping is found in `_mappings` from the moment in which `mmap` puts its address into `at`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import CodeType

from . import limits
from .errors import AddressTakenError, InvalidAddressError, ReadOnlyMappingError
from .geometry import USER_END, Span
from .linux import descriptors, libc, proc
from .procfs import FileId, Vma
from .units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

Exporter = ctypes.Array[ctypes.c_ubyte]

lock = descriptors.lock
"""Protects all mappings, their owners, and the exporters of regions from other threads, over forks as well."""

_mappings: dict[int, Mapping] = {}
"""Every mapping by its id(), from before it is mapped until it is unmapped."""

_index: dict[tuple[FileId, int], Mapping] = {}
"""The last mapping of a file at an address. A fast hint: `_mappings` also has the mappings that this table lacks."""

_dead: list[object] = []
"""Owners that died before their release, because a signal handler interrupted their destructor. C code puts them here,
and no handler runs in C. Also mappings that are being released. The next `map_file` or `release` unmaps all of them."""

_BOX = (lambda: None).__code__
"""Facts: if an object is part of a cycle, the collector clears all weak references to the members of that cycle, and
finalizes the members in any order. A `__del__` among them may use the region, or keep an array of it alive for good.
The collector does not look into objects that it does not track, such as code objects. An object that only a code object
holds is not a member, and dies when the code object is really freed.
Decision: `anchor` puts an owner among the constants of a new code object."""


class Owner:
    """An object that keeps a mapping in this process: a `Region`'s attachment, or a mere hold, such as an exporter's.
    The owner ends its hold with `Mapping.release`, or when the owner is freed."""

    area: Mapping | None = None
    """The mapping, from before its mmap (a signal handler may raise at any time) until its release."""

    def leave(self) -> None:
        """Release the mapping, if there is one."""
        area = self.area  # read only once: a handler or finalizer may release it in between
        if area is not None:
            area.release(self)

    def __del__(self) -> None:
        if _dead is not None:  # at the very end of the interpreter, this module's names are gone
            self.leave()


class Hold(Owner):
    """Give an owner for the time of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def anchor(owner: Owner) -> CodeType:
    """Return an object that keeps `owner` from being part of a cycle, if nothing else holds it."""
    return _BOX.replace(co_consts=(owner,))


class Mapping:
    """Addresses of this process that show a region. Made by `map_file`; found by `find`."""

    def __init__(self, file: FileId, addr: int, length: int, writable: bool) -> None:
        self.file = file
        self.addr = addr
        self.length = length
        self.writable = writable
        self.region_name = ""
        """The name for messages; /proc has no name for a region that was mapped before it was named."""
        self.draft_of: int | None = None
        """The thread that is creating this region; None when the region is complete. Protected by `lock`."""
        self.at: list[int] = []
        """The address while it is mapped."""
        self._owners: dict[int, weakref.ref[Owner]] = {}
        """The owners by id(), so that a second release by an interrupted owner does no harm."""

    @property
    def span(self) -> Span:
        """Its addresses."""
        return Span(self.addr, self.addr + self.length)

    def owners(self) -> list[Owner]:
        """Return the owners that are alive."""
        return [owner for owner in (ref() for ref in list(self._owners.values())) if owner is not None]

    def hold(self, owner: Owner) -> bool:
        """Make `owner` an owner until its `release`. False if the mapping is gone."""
        with lock:
            if not self.owners():
                self.unmap()
                return False
            self.promise(owner)
            if not self.at:  # not mapped yet, or unmapped by a handler or finalizer since the look at its owners
                self._owners.pop(id(owner), None)
                owner.area = None
            return owner.area is self

    def promise(self, owner: Owner) -> None:
        """Make `owner` an owner before the mmap. Under `lock`, as the next four methods."""
        owner.area = self
        self._owners[id(owner)] = weakref.ref(owner, _dead.append)

    def unmap(self) -> None:
        """Unmap the mapping, even if owners hold it. A second call does nothing."""
        libc.munmap_from(self.at, self.length)
        _mappings.pop(id(self), None)
        if _index.get((self.file, self.addr)) is self:
            _index.pop((self.file, self.addr), None)

    def replace(self, fd: int, *, writable: bool) -> None:
        """Replace the mapping by one of `fd`, the same file opened with other rights. The caller holds the mapping."""
        libc.remap(fd, self.length, writable=writable, addr=self.addr)
        self.writable = writable

    def published(self, name: str) -> None:
        """Note that the region is complete, with its name if it gets one, and no longer a draft."""
        self.draft_of = None
        self.region_name = name or self.region_name

    def release(self, owner: Owner) -> None:
        """Release the mapping. The last release unmaps the memory, and the kernel drops the attachment's lock."""
        descriptors.reclaim_lock()
        with lock:
            _dead.append(self)  # until the work is done: the next call completes an interrupted release
            self._owners.pop(id(owner), None)
            if not self.owners():
                self.unmap()
            if owner.area is self:
                owner.area = None
            with suppress(ValueError):  # a handler or finalizer in between has settled all
                _dead.remove(self)
            _settle()

    def export(self, size_bytes: int) -> Exporter | None:
        """Return a new exporter over the first `size_bytes`, which holds the mapping while the exporter lives; None if
        the mapping is gone."""
        with lock:
            hold = Owner()
            if not self.hold(hold):
                return None
            exporter = (ctypes.c_ubyte * size_bytes).from_address(self.addr)
            vars(exporter)["anchor"] = anchor(hold)
            return exporter


def _settle() -> None:
    """Unmap the mappings that have lost their last owner to an interrupt. Under `lock`."""
    if _dead:
        _dead.clear()
        for mapping in list(_mappings.values()):
            if not mapping.owners():
                mapping.unmap()


def find(file: FileId, addr: int, *, writable: bool, owner: Owner) -> Mapping | None:
    """Return this process's mapping of `file` at `addr`, held by `owner`, if there is one.

    Raises `ReadOnlyMappingError` if the caller wants `writable` and the mapping is not.
    """
    return _held(_index.get((file, addr)), writable=writable, owner=owner)


def _held(mapping: Mapping | None, *, writable: bool, owner: Owner) -> Mapping | None:
    if mapping is None or not mapping.hold(owner):
        return None
    if writable and not mapping.writable:
        mapping.release(owner)
        raise ReadOnlyMappingError(
            f"this process has the region mapped read-only at {mapping.addr:#x}",
            "close that one first, or attach with addr=mshare.ANYWHERE",
        )
    return mapping


def all_of(region_name: str, files: set[FileId]) -> list[Mapping]:
    """Return this process's mappings of these files, and of regions that had this name when they were attached."""
    return [
        mapping
        for mapping in list(_mappings.values())
        if mapping.at and (mapping.file in files or (region_name and mapping.region_name == region_name))
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
    region_name: str,
    draft: bool = False,
) -> Mapping:
    """Map the first `length` bytes of `fd` and return the mapping, held by `owner`. Under `lock`.

    `next_addr` gives the address, and is called again if the address is taken and `fixed` is false. `region_name`: for
    messages. `draft`: a child that another thread forks in the meantime does not get the mapping.
    Raises `AddressTakenError`, which names the mapping that is there, `InvalidAddressError`, `NoSpaceError`, `OSError`.
    """
    _settle()
    for _ in range(16):
        addr = next_addr()
        if addr + length > USER_END:
            raise _not_allowed(addr, length)
        mapping = Mapping(file, addr, length, writable)
        mapping.draft_of = threading.get_ident() if draft else None
        mapping.promise(owner)
        _mappings[id(mapping)] = mapping
        try:
            libc.mmap_into(mapping.at, fd, length, writable=writable, addr=addr)
        except FileExistsError as error:
            mapping.release(owner)
            if not fixed:
                continue
            same = _just_mapped(mapping, writable=writable, owner=owner)
            if same is not None:
                return same
            vma = _in_the_way(mapping.span)
            if vma is not None:  # else a handler or finalizer has mapped and unmapped something there
                raise _taken(mapping, vma, region_name) from error
        except OSError as error:
            mapping.release(owner)
            if error.errno in (errno.EPERM, errno.EINVAL):  # below vm.mmap_min_addr; not whole huge pages
                raise _not_allowed(addr, length) from error
            if error.errno not in (errno.ENOMEM, errno.EAGAIN):
                raise
            raise limits.mapping_refused(error, length, addr) from error
        else:
            if mapping.at:  # no handler has closed it already
                _index[file, addr] = mapping
            return mapping
    raise AddressTakenError("no free address was found in 16 tries", "pass addr= yourself")


def _just_mapped(wanted: Mapping, *, writable: bool, owner: Owner) -> Mapping | None:
    """Return the mapping that a signal handler or finalizer has made after `find` did not find one."""
    for mapping in list(_mappings.values()):
        if (mapping.file, mapping.addr) == (wanted.file, wanted.addr):
            held = _held(mapping, writable=writable, owner=owner)
            if held is not None:
                _index[held.file, held.addr] = held
                return held
    return None


def _not_allowed(addr: int, length: int) -> InvalidAddressError:
    return InvalidAddressError(
        f"the kernel lets no process map {format_size(length)} of this region at {addr:#x}",
        "choose another address, a multiple of 1 GiB say, or addr=mshare.ANYWHERE",
    )


def _in_the_way(wanted: Span) -> Vma | str | None:
    """Return this process's first mapping there, None if there is none now, "unknown" without a /proc."""
    try:
        return proc.mapping_in_the_way(wanted)
    except OSError:
        return "unknown"


def _taken(wanted: Mapping, vma: Vma | str, region_name: str) -> AddressTakenError:
    """Return the exception for `vma` in the way of `wanted`, the addresses of the region `region_name`."""
    what, hint = "another mapping", "unmap that, or attach elsewhere with addr=mshare.ANYWHERE"
    if isinstance(vma, Vma):
        path = vma.path.decode("utf-8", "backslashreplace") or "anonymous memory"
        ours = next((each for each in list(_mappings.values()) if each.at and each.span.overlaps(wanted.span)), None)
        if ours is not None and ours.region_name:
            path = f"region {ours.region_name!r}"
            if ours.file != wanted.file and ours.region_name == region_name:
                path = f"an older version of {path}"
                hint = "close that one first, or attach this one with addr=mshare.ANYWHERE"
        elif ours is None and vma.file == wanted.file:
            path = "this very region, mapped by another interpreter or without mshare"
        what = f"{path} ({vma.span.start:#x}-{vma.span.end:#x} {vma.perms})"
    return AddressTakenError(
        f"addresses {wanted.span.start:#x}-{wanted.span.end:#x} are taken in this process by {what}", hint
    )


def _after_fork_in_child() -> None:
    """Drop the drafts of threads that this child does not have, because nobody else in the child would."""
    for mapping in list(_mappings.values()):
        if mapping.draft_of not in (None, threading.get_ident()):
            mapping.unmap()


os.register_at_fork(after_in_child=_after_fork_in_child)
