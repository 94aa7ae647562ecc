"""Creating regions: a file without a name is completed, and one step then gives the file its name.

May depend on: limits, placement, backend, backends, handle, linux, mapping, region, errors, units, geometry,
record, procfs, typed, listing, names, numa,
removal, replacement, roots.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import backends, limits, listing, mapping, names, removal, replacement, roots
from .backend import Backend, Progress, Request, Wish, choose, explain
from .errors import (
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidSizeError,
    NoSpaceError,
    ViewsAliveError,
)
from .geometry import PAGE, PMD, USER_END, attachment_span, round_up
from .handle import Handle, fix_size
from .linux import libc, locks, proc
from .linux.descriptors import Descriptor
from .linux.memory import file_size_limit
from .numa import Numa, Placement
from .numa import check as check_numa
from .placement import check_address, free_address
from .procfs import FileId
from .record import ATTACHED_BYTE, Record, file_size
from .region import Region
from .typed import NamedTuple
from .units import format_apart, format_size, whole

_LEAVES = {"2M": PMD, "4K": PAGE}

Fill = Callable[[memoryview], None]
"""A function that gets the writable bytes of a region without a name. The view is valid only during the call."""


@limits.named
def create(
    name: str,
    size: int,
    *,
    mode: int = 0o600,
    backend: str | None = None,
    addr: int | None = None,
    reserve: bool = True,
    numa: Numa = None,
    leaf: str | None = None,
    progress: Progress | None = None,
    fill: Fill | None = None,
    replace: bool = False,
) -> Region:
    """Create a region of `size` bytes, filled by `fill` or with zeros, and return the region attached read-write.

    The name appears in one step when everything is complete. A creator that dies before leaves nothing behind.

    - `size`: bytes, at least 1. The region's record takes one page more, and the sum is rounded up to the backend's
      unit.
    - `mode`: permission bits of the region's file, taken exactly (no umask). Default: the owner only.
    - `backend`: one backend's name, or None for `$MSHARE_BACKEND`, or the best that this machine offers.
    - `addr`: the address at which every process attaches the region, a multiple of the leaf size (msharefs: of 1 GiB).
      None picks a 1 GiB-aligned address in `geometry.WINDOW` that no region known to this process uses.
    - `reserve`: True, the default, takes all memory now, so that a region that exists never runs out of memory. False
      takes each page on its first touch, or by `Region.populate`. A touch on a full machine is then SIGBUS. hugetlb has
      to be asked for by name then.
    - `numa`: the number of the memory node that has to have all memory of the region, or `"interleave"` for all nodes
      in turn: by pages of the region's leaf size, and on other nodes where one is full. None leaves that to the kernel
      and to the thread's own memory policy. Needs `reserve=True`; `populate` has such an argument for later.
    - `leaf`: `"2M"` or `"4K"`, the bytes that one last-level page-table entry shall map, in backends that have such
      entries. None takes what the backend has. On msharefs regions choose: None means 2 MiB for regions of at least 2
      MiB that reserve their memory, else 4 KiB, and 4 KiB where the mount has `huge=never`. `info().reason` tells the
      choice. Blocks that find no page of 2 MiB get pages of 4 KiB (`info().huge_fallbacks`).
    - `progress`: called with (bytes done, bytes in all) while memory is reserved.
    - `fill`: called once with the region's writable bytes, after the memory is reserved and before any process can see
      the name. Nobody ever reads a half-filled region. If `fill` raises, no region exists, and the error is raised
      here. `fill` must keep no view (`ViewsAliveError`). With `reserve=False` a full machine means SIGBUS. A child
      that another thread forks in the meantime does not have the memory.
    - `replace`: True gives the new region the name even if another region has it, in the same step. Every process finds
      the older or the complete newer region under the name, at all times. Processes that have the older one attached
      keep it, unchanged, until they detach: `Region.superseded` tells them, and `reattach` moves them over. The new
      region gets an address of its own, and lies in the directory of the older one, so that `backend` has to use that
      directory. There must be memory for both. The rights needed are those of `unlink`. Mode and owner are those of the
      new region. Costs one pass over /proc. If a signal handler raises after the name has appeared, the name stays.

    Raises `InvalidNameError`, `InvalidSizeError`, `InvalidAddressError`, `InvalidArgumentError`, `RegionExistsError`,
    `NoSpaceError`, `AddressTakenError`, `BackendUnavailableError`, with `replace` also `NotARegionError`,
    `AmbiguousNameError`, `AccessDeniedError` and `RegionBusyError` (others change the name all the time), and leaves
    nothing behind then. Cost: reserving clears the memory, once.
    """
    spec = Spec(names.check_name(name), size, mode, addr, reserve, numa, progress, fill, replace=replace, leaf=leaf)
    return build(spec, backend)


@limits.named
def create_anonymous(
    size: int,
    *,
    backend: str | None = None,
    addr: int | None = None,
    reserve: bool = True,
    numa: Numa = None,
    leaf: str | None = None,
    linkable: bool = False,
    progress: Progress | None = None,
    fill: Fill | None = None,
) -> Region:
    """Create a region without a name and return the region attached read-write.

    The region lives while any process has a descriptor (`Handle`) or a mapping of it, and ends with the last one.
    `Region.handle` and `Region.map_only` give handles for other processes.

    - `linkable`: the region can be given a name later (`Region.link`). Except on msharefs such a region cannot be
      sealed: only a memfd can be sealed, and only a file of a mounted file system can have a name.
    - The other arguments are those of `create`. A memfd obeys no limit of /dev/shm.

    Raises the errors of `create`.
    """
    spec = Spec(None, size, 0o600, addr, reserve, numa, progress, fill, linkable=linkable, leaf=leaf)
    return build(spec, backend)


def creator(name: str | None, *, mode: int, backend: str | None, replace: bool) -> Callable[[int, Fill], Region]:
    """Return a function that creates a region of a size, filled: `create`, or `create_anonymous` for the name None.

    Raises `InvalidArgumentError` at once if a region without a name should replace one.
    """
    if name is not None:
        return lambda size, fill: create(name, size, mode=mode, backend=backend, replace=replace, fill=fill)
    if replace:
        raise InvalidArgumentError("a region without a name replaces nothing", "give a name, or omit replace")
    return lambda size, fill: create_anonymous(size, backend=backend, fill=fill)


class Spec(NamedTuple):
    """The wanted properties of a new region."""

    name: str | None
    """None for a region that gets no name, or gets one later."""
    size: int
    mode: int = 0o600
    addr: int | None = None
    reserve: bool = True
    numa: Numa = None
    progress: Progress | None = None
    fill: Fill | None = None
    frozen: bool = False
    """Nobody may attach the region read-write, not even its creator."""
    linkable: bool = False
    replace: bool = False
    """The region takes over its name from an older region, if there is one."""
    lean: bool = False
    """Pages that were reserved are unmapped from this process at once, so that they do not count as its memory (RSS)
    while it creates the region. `fill` maps them again. Without effect on hugetlb and msharefs."""
    announce: Callable[[FileId, Record], None] | None = None
    """Called with the complete file and its record when the next step gives the file its name. If `announce` raises, no
    region exists."""
    leaf: str | None = None

    @property
    def leaf_size(self) -> int | None:
        """The size in bytes of leaves that was asked for."""
        return None if self.leaf is None else _LEAVES[self.leaf]

    @property
    def label(self) -> str:
        """The region's name in messages."""
        return "a region without a name" if self.name is None else f"region {self.name!r}"

    def checked(self) -> Spec:
        """Return the same wishes, each number an int. Raises the error that fits if no backend can fulfil them."""
        if self.name is not None:
            names.check_name(self.name)
        size = whole(self.size, "a region's size, in bytes,")
        if size < 1:
            raise InvalidSizeError(f"invalid size of {size} bytes", "ask for at least 1 byte")
        if size > USER_END // 2:
            raise InvalidSizeError(
                f"{size} bytes are more than a process can address",
                f"at most {format_size(USER_END // 2)}",
            )
        if self.numa is not None and not self.reserve:
            raise InvalidArgumentError(
                "numa= places memory that is taken at creation, and reserve=False takes none",
                "give numa= to Region.populate",
            )
        if self.leaf is not None and self.leaf not in _LEAVES:
            raise InvalidArgumentError(f"invalid leaf {self.leaf!r}", f"use {' or '.join(map(repr, _LEAVES))}, or None")
        if self.leaf_size == PMD > size:
            raise InvalidArgumentError(
                f"a region of {format_size(size)} has no room for a leaf of 2 MiB", "ask for more, or omit leaf="
            )
        addr = None if self.addr is None else check_address(self.addr, size, PAGE)
        return self._replace(size=size, addr=addr, mode=names.check_mode(self.mode))


def build(spec: Spec, forced: str | None = None) -> Region:
    """Create what `spec` says on the backend `forced`, or on the first candidate that has the memory."""
    spec = spec.checked()
    placement = check_numa(spec.numa)
    if not proc.is_mounted():
        raise roots.no_proc()
    older = None
    if spec.name is not None and spec.replace:
        older = replacement.find_older(spec.name)
        removal.remove_left_behind()
    elif spec.name is not None:
        names.refuse_existing(spec.name)
    forced = forced or os.environ.get("MSHARE_BACKEND") or None
    able = backends.NAMELESS if spec.name is None and not spec.linkable else backends.ALL
    root = None if older is None else older.root
    choice = choose(able, Request(spec.size, spec.reserve, spec.addr, placement.node, spec.leaf_size, root), forced)
    rejected = list(choice.rejected)
    problem: NoSpaceError | BackendUnavailableError | None = None
    for backend in choice.candidates:
        reason = explain(backend, rejected, forced=forced is not None)
        try:
            draft = _Draft(spec, backend, placement)
        except (NoSpaceError, BackendUnavailableError) as error:
            problem = error
            rejected.append((backend.name, error.problem))
            continue
        try:
            if spec.fill is not None:
                draft.fill(spec.fill)
            return draft.publish(reason)
        finally:
            draft.end()
    assert problem is not None
    raise problem


class _Draft:
    """A region with memory but without a name: file and mapping, which `end` removes unless they are published."""

    def __init__(self, spec: Spec, backend: Backend, placement: Placement) -> None:
        """Reserve the memory. Raises `NoSpaceError`, `BackendUnavailableError`, `AddressTakenError`."""
        self.spec, self.backend, self.placement = spec, backend, placement
        self.length = file_size(spec.size, backend.capabilities.file_unit)
        self.root = backend.root()
        self.owner = mapping.Owner()
        limit = file_size_limit()
        if limit is not None and self.length > limit:
            raise NoSpaceError(
                f"{spec.label} needs a file of {format_size(self.length)}, and this process may make none "
                f"above {format_size(limit)} (RLIMIT_FSIZE)",
                "raise that limit (`ulimit -f`), or make it smaller",
            )
        if spec.reserve and backend.charge(self.length) > backend.space(placement.node).free_bytes:
            raise _no_space(spec, self.length, backend, placement)
        with self._out_of_room_named():
            self.file = backend.open_file()
        self.fd = self.file.fd
        try:
            placement.check_file_system(os.fstat(self.fd).st_dev)
            self.leaf = backend.choose_leaf(self.fd, Wish(spec.size, spec.reserve, spec.leaf_size))
            with self._out_of_room_named():
                os.ftruncate(self.fd, self.length)
                locks.try_read_lock(self.fd, ATTACHED_BYTE)
                area = _map_new(self.fd, spec, backend, self.owner)
                if spec.reserve:
                    progress = _unmapping(area, spec.progress) if self._is_lean else spec.progress
                    placement.run(backend.populate, self.fd, self.length, area.addr, area.length, progress)
        except BaseException:
            self.end()
            raise

    @property
    def _is_lean(self) -> bool:
        """Pages of other backends are not counted (hugetlb), or have tables that belong to the region (msharefs)."""
        able = self.backend.capabilities
        return self.spec.lean and able.file_unit == PAGE and not able.is_linked

    @property
    def area(self) -> mapping.Mapping:
        assert self.owner.area is not None
        return self.owner.area

    @contextmanager
    def _out_of_room_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if limits.is_out_of_room(error) and not isinstance(error, NoSpaceError):
                raise _no_space(self.spec, self.length, self.backend, self.placement, error) from error
            raise

    def fill(self, fill: Fill) -> None:
        """Let the caller write the content. The caller's errors pass unchanged, and no other backend is tried then."""
        exporter = self.area.export(self.spec.size)
        assert exporter is not None
        watch = weakref.ref(exporter)
        with memoryview(exporter).cast("B") as view:
            del exporter
            fill(view)
        del view
        if watch() is not None:
            raise ViewsAliveError(
                f"fill has kept views of {self.spec.label}", "keep none: use the Region that create returns"
            )

    def publish(self, reason: str) -> Region:
        """Write the record, give the file its name, and return the region attached."""
        spec = self.spec
        if self.leaf.reason:
            reason = f"{reason}; {self.leaf.reason}"
        record = _record(self.backend, spec, self.area.addr, self.leaf.leaf_size, reason)
        with self._out_of_room_named():
            self.backend.write_record(self.fd, self.length, record.encode())
        if spec.frozen:
            self._remap_readonly()
        os.fchmod(self.fd, spec.mode & 0o555 if spec.frozen else spec.mode)
        region = Region(spec.name or "", self.root, os.fstat(self.fd), record, readonly=spec.frozen)
        try:
            self.area.hold(region._attached)
            if spec.announce is not None:
                spec.announce(self.area.file, record)
            if spec.name is None:
                fix_size(self.fd)
                region._attached.handle = Handle(Descriptor(f"/proc/self/fd/{self.fd}", os.O_RDWR))
            elif self.root is not None:
                (replacement.publish_over if spec.replace else names.publish)(self.fd, self.root, spec.name)
            with mapping.lock:
                self.area.published(region.name)
        except BaseException:  # perhaps the error of a signal handler, after the name has appeared
            region.close()  # now, not when the error's traceback lets go of it
            if self.root is not None and spec.name is not None and not spec.replace:
                names.withdraw(self.fd, self.root, spec.name)
            raise
        return region

    def _remap_readonly(self) -> None:
        """Replace the creator's mapping by one through which the kernel never lets the creator write."""
        writable = self.area
        with Descriptor(f"/proc/self/fd/{self.fd}", os.O_RDONLY) as readonly_fd:
            locks.try_read_lock(readonly_fd, ATTACHED_BYTE)
            with mapping.lock:  # so that no other thread's region takes the address
                writable.release(self.owner)
                mapping.map_file(
                    readonly_fd,
                    writable.file,
                    writable.length,
                    writable=False,
                    next_addr=lambda: writable.addr,
                    fixed=True,
                    owner=self.owner,
                    region_name=self.spec.name or "",
                    draft=True,
                )

    def end(self) -> None:
        """Release the file and the mapping."""
        self.owner.leave()
        self.file.close()


def _unmapping(area: mapping.Mapping, progress: Progress | None) -> Progress:
    """Return a `progress` that unmaps the pages that have been reserved. The file keeps the pages."""

    def unmap(done: int, whole: int) -> None:
        libc.madvise(area.addr, min(done, area.length), libc.MADV_DONTNEED)
        if progress is not None:
            progress(done, whole)

    return unmap


def _file_id(fd: int) -> FileId:
    status = os.fstat(fd)
    return FileId(status.st_dev, status.st_ino)


def _map_new(fd: int, spec: Spec, backend: Backend, owner: mapping.Owner) -> mapping.Mapping:
    """Map the new file at the region's future address, clear of all regions that this process knows. A region that
    replaces others is also clear of older versions without a name, so that a process can attach both."""
    known = []
    if spec.addr is None:
        known = [attachment_span(record.size_bytes, record.addr) for record in listing.known_records()]
        known += listing.spans_in_use() if spec.replace else []

    def next_addr() -> int:
        # The address is random, even for a name that existed before. A process that still has the older region attached
        # can then attach the new one.
        seed = int.from_bytes(os.urandom(4))
        addr = spec.addr if spec.addr is not None else free_address(seed, spec.size, known)
        backend.announce(fd, addr)
        return addr

    with mapping.lock:
        return mapping.map_file(
            fd,
            _file_id(fd),
            round_up(spec.size, backend.capabilities.map_unit),
            writable=True,
            next_addr=next_addr,
            fixed=spec.addr is not None,
            owner=owner,
            region_name=spec.name or "",
            draft=True,
        )


def _record(backend: Backend, spec: Spec, addr: int, leaf_size: int, reason: str) -> Record:
    return Record(
        size_bytes=spec.size,
        addr=addr,
        leaf_size=leaf_size,
        map_unit=backend.capabilities.map_unit,
        created_ns=time.time_ns(),
        backend=backend.name,
        reason=reason,
        frozen=spec.frozen,
        reserved=spec.reserve,
    )


def _no_space(
    spec: Spec, length: int, backend: Backend, placement: Placement, error: OSError | None = None
) -> NoSpaceError:
    """Return what to raise for a file of `length` bytes that does not fit, or that the kernel has refused (`error`)."""
    root = backend.root()
    files = os.statvfs(root) if root is not None else None
    if files is not None and files.f_files and not files.f_favail:
        return NoSpaceError(
            f"{spec.label} needs a file, and {root} may have no more of them",
            f"remove some (mshare gc), or allow more: sudo mount -o remount,nr_inodes=N {root}",
        )
    space = backend.space(placement.node)
    needed = backend.charge(length)
    need, free = format_apart(needed, space.free_bytes)
    tables = f" ({format_size(length)} and its page tables)" if needed > length else ""
    if error is not None and needed <= space.free_bytes:
        # The control group's memory or this process's addresses ran out, or another process has just given memory back.
        why = f"which the kernel refused ({error.strerror}) although {free} can be had ({space.limit})"
    else:
        why = f"but only {free} can be had ({space.limit})"
    return NoSpaceError(
        f"{spec.label} needs {need} on {backend.name}{tables}, {why}",
        "make it smaller, free some (mshare ls, mshare gc), or raise that limit; `mshare doctor` shows them all",
    )
