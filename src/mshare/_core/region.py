"""A region as one process has it attached.

May depend on: attached, extent, limits, handle, linux, mapping, errors, units, record, numpy, numa, listing, names,
roots.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from fcntl import F_GETFL, fcntl
from types import TracebackType

from . import extent, limits, listing, mapping, names, roots
from . import handle as handles
from .attached import Attached
from .errors import (
    AccessDeniedError,
    AmbiguousNameError,
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidSizeError,
    NotARegionError,
    ReadOnlyMappingError,
    RegionBusyError,
    RegionClosedError,
    RegionExistsError,
    RegionNotFoundError,
    ViewsAliveError,
)
from .handle import Handle
from .linux import descriptors, ioctl, locks, proc
from .linux.descriptors import Descriptor
from .numa import Numa
from .numa import check as check_numa
from .record import ATTACHED_BYTE, Record, RegionInfo
from .units import format_list, format_size, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, SupportsIndex

    import numpy
    from numpy.typing import DTypeLike


class Region:
    """A region as this process has it attached. `create` and `attach` make it; use it as a context manager.

    The attachment ends with `close`, with the `with` block, with the garbage collection of the object and all its
    views, or with the process, even by a kill. None of these removes the name.
    """

    def __init__(self, name: str, root: str | None, status: os.stat_result, record: Record, *, readonly: bool) -> None:
        """`root`, `status` and `record`: the file as it is at this moment. The object is usable once `_attached` owns a
        mapping, at the record's address by default."""
        self._name = name
        self._root = root
        self._status = status
        self._record = record
        self._readonly = readonly
        self._addr = record.addr
        self._anchor = mapping.anchor(Attached())

    @property
    def _attached(self) -> Attached:
        attached: Attached = self._anchor.co_consts[0]
        return attached

    @property
    def _area(self) -> mapping.Mapping | None:
        return self._attached.area

    @property
    def name(self) -> str:
        """The region's name at the time of the attach."""
        return self._name

    @property
    def size(self) -> int:
        """The size in bytes that the creator asked for."""
        return self._record.size_bytes

    @property
    def addr(self) -> int:
        """Address of the first byte in this process: the region's own, unless `attach` was given another."""
        return self._addr

    @property
    def readonly(self) -> bool:
        """True if this object gives no write access."""
        area = self._area
        return self._readonly or (area is not None and not area.writable)

    @property
    def backend(self) -> str:
        """Name of the backend that holds the region; `info().reason` says why it was chosen."""
        return self._record.backend

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._attached.closed

    @property
    @limits.named
    def superseded(self) -> bool:
        """True as soon as the region's name means another region of the same owner, such as a newer version.

        `reattach` attaches that one. The answer is False if the name has been removed or means a file of another user,
        for a region without a name, and for an attachment by handle. Costs one system call if the name exists. Raises
        `RegionClosedError`.
        """
        now = self._named_now()
        mine = self._status
        return now is not None and now.st_uid == mine.st_uid and not os.path.samestat(now, mine)

    def _named_now(self) -> os.stat_result | None:
        """Return the status of the ordinary file that has the region's name now. Raises `RegionClosedError`."""
        if self.closed:
            raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
        if self._root is None or not self._name:
            return None
        try:
            now = os.stat(f"{self._root}/{self._name}", follow_symlinks=False)
        except OSError as error:
            limits.reraise(error)
            try:
                with names.find(self._name) as entry:  # in another root: removed, and made again
                    now = entry.status
            except (RegionNotFoundError, NotARegionError, AmbiguousNameError):
                return None
        return now if stat.S_ISREG(now.st_mode) else None

    @property
    def buf(self) -> memoryview:
        """The region's bytes, zero copy; read-only if the region is. The region cannot be closed while this view, or
        any object made from the view, lives. Raises `RegionClosedError`."""
        descriptors.reclaim_lock()
        with mapping.lock:
            exporter = self._attached.exporter(self.size)
            if exporter is None:
                raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
            view = memoryview(exporter).cast("B")
            return view.toreadonly() if self.readonly else view

    def ndarray(
        self, dtype: DTypeLike, shape: SupportsIndex | Iterable[SupportsIndex], offset: int = 0
    ) -> numpy.ndarray[Any, numpy.dtype[Any]]:
        """Return a numpy array over the region's memory, zero copy, from byte `offset` on, in C order.

        `shape` is one number, or several in a tuple, a list or an array. Needs numpy (the extra `numpy`).
        Raises `InvalidSizeError` if the array does not fit, `InvalidArgumentError` for a dtype that holds Python
        objects or has no bytes, `RegionClosedError`.
        """
        import numpy

        offset = whole(offset, "an offset, in bytes,")
        if offset < 0:
            raise InvalidSizeError(f"offset {offset} is negative", "count it from the region's first byte")
        view = self.buf
        kind = numpy.dtype(dtype)
        if kind.hasobject:
            raise InvalidArgumentError(
                f"dtype {kind} holds pointers of one process", "use numbers, booleans or fixed-size strings"
            )
        if not kind.itemsize:
            raise InvalidArgumentError(f"items of dtype {kind} have no bytes", "say how many, such as 'S8'")
        dimensions = _dimensions(shape)
        count = math.prod(dimensions)
        if min(dimensions, default=0) < 0 or offset + count * kind.itemsize > self.size:
            raise InvalidSizeError(
                f"an array of {dimensions} x {kind} from byte {offset} does not fit into region "
                f"{self.name!r} of {self.size} bytes",
                "make it smaller, or the region larger",
            )
        try:
            # Not numpy.ndarray(buffer=view): that takes the memory under a read-only view, and does not hold the view.
            flat = numpy.frombuffer(view, kind.base, count * math.prod(kind.shape), offset)
            return flat.reshape(dimensions + kind.shape)
        except (ValueError, OverflowError) as error:  # no bytes, but too many or too long dimensions
            raise InvalidSizeError(
                f"numpy makes no array of shape {dimensions}: {error}", "use another shape"
            ) from error

    @limits.named
    def info(self) -> RegionInfo:
        """Return the region as it is now. Costs one pass over /proc. Raises `RegionClosedError`."""
        area, handle = self._area, self._attached.handle
        if area is None:
            raise RegionClosedError(f"region {self.name!r} is closed", "see mshare.regions()")
        file = area.file
        pids = proc.processes_mapping({file})[file]
        status, named, facts = self._status, False, None
        if handle is not None:
            status, facts = os.fstat(handle.fileno()), ioctl.region_facts(handle.fileno())
        try:
            with names.find(self.name) as entry:
                if entry.file == file:
                    status, named = entry.status, True
                    with entry.open(writable=False) as fd:
                        facts = ioctl.region_facts(fd)
        except OSError as error:  # the name is gone, or the file is not ours to read any more
            limits.reraise(error)
        root = self._root if named else None
        info = listing.describe(self.name, root, status, self._record, facts, locked=True, pids=pids)
        return info._replace(named=named)

    @limits.named
    def populate(self, offset: int = 0, length: int | None = None, *, numa: Numa = None) -> None:
        """Give all pages that a range touches memory now, so that no touch of the range can fail. The bytes stay.

        - `offset`, `length`: in bytes; by default the range ends with the region.
        - `numa`: where new memory lies, as for `create`. Memory that is there already does not move.

        Raises `NoSpaceError` with nothing changed if there is not enough memory (msharefs can keep zero pages if memory
        runs out in the middle: docs/known-gaps.md). Memory from before the call stays.
        Also raises `InvalidSizeError`, `RegionClosedError`, `ReadOnlyMappingError`, `AccessDeniedError`,
        `RegionNotFoundError` (the region's name has been removed), `BackendUnavailableError`, and for `numa` the errors
        of `create`. Does nothing to a region that has all its memory. On thp, whole blocks of 2 MiB also become 2 MiB
        pages, as far as the kernel has such pages. Costs the clearing of the memory. Other signals than SIGKILL wait
        until the kernel has taken the memory.
        """
        placement, span = check_numa(numa), extent.span_of(self._record, offset, length)
        with self._writing("populate") as area, self._own_handle(writable=True) as handle:
            extent.populate(handle.fileno(), area.addr, self._record, span, placement, self._label)

    @limits.named
    def discard(self, offset: int = 0, length: int | None = None) -> None:
        """Give the memory of a range back to the system, at once. All attachments read zeros there from then on.

        - `offset`, `length`: in bytes, by default to the region's end. Both ends are multiples of 4 KiB (hugetlb: 2
          MiB), or the region's end. Other ends are refused, because a part of a page gives no memory back.

        The next touch, even one that only reads, takes memory again, and is SIGBUS on a full machine: call `populate`
        before. A lock that lies in the range is lost. Raises `InvalidSizeError`, `RegionClosedError`,
        `ReadOnlyMappingError`, `AccessDeniedError` (a sealed region) and `RegionNotFoundError` (this process has locked
        its memory, and the region's name has been removed), with nothing changed.
        """
        span = extent.span_of(self._record, offset, length)
        with self._writing("discard") as area:
            extent.discard(area.addr, self._record, span, self._label, lambda: self._own_handle(writable=True))

    @limits.named
    def resident(self) -> int:
        """Return the bytes of memory that the region's pages have now, its record (one page) included.

        The number counts the pages of the file, whichever process has made them: on tmpfs (thp, shm) pages in swap also
        count, on hugetlb whole pages of 2 MiB count, and on msharefs page tables do not. The cost is that of `handle`,
        without a pass over /proc. Raises `RegionClosedError`, `RegionNotFoundError` and `AccessDeniedError`.
        """
        with self._own_handle(writable=False) as handle:
            return extent.memory_bytes(handle.fileno())

    @property
    def _label(self) -> str:
        return f"region {self.name!r}" if self.name else "a region without a name"

    @contextmanager
    def _writing(self, doing: str) -> Iterator[mapping.Mapping]:
        """Hold the mapping, which is writable, for the time of a `with` block."""
        area = self._area
        if area is None or self.closed:
            raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
        if self.readonly:
            raise ReadOnlyMappingError(
                f"{self._label} is attached read-only, and {doing} changes the region", "attach it read-write"
            )
        with mapping.Hold() as hold:
            if not area.hold(hold):
                raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
            yield area

    def close(self) -> None:
        """Detach: end this object's use of the region. A second call does nothing. The name stays.

        Raises `ViewsAliveError` (a `BufferError`), and changes nothing, while a memoryview, slice or array of this
        object lives.
        """
        descriptors.reclaim_lock()
        with mapping.lock:
            if not self._attached.close():
                raise views_alive(self.name)

    def _own_handle(self, *, writable: bool) -> Handle:
        """Return a handle of the region, to be closed by the caller."""
        area, handle = self._area, self._attached.handle
        if area is None:
            raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
        if handle is not None:
            return handle.duplicate()
        return handles.of_named(self.name, area.file, writable=writable)

    @limits.named
    def handle(self) -> Handle:
        """Open and return a new handle of the region, with all rights of this object. The caller closes the handle.

        Costs one descriptor. Raises `RegionClosedError`; `RegionNotFoundError` if the region's name has been removed.
        """
        return self._own_handle(writable=not self.readonly)

    @limits.named
    def map_only(self, *, readonly: bool = True) -> Handle:
        """Return a new handle that can map the region and nothing more; see `Handle.map_only`."""
        with self.handle() as handle:
            return handle.map_only(readonly=readonly)

    @property
    @limits.named
    def sealed(self) -> bool:
        """True if nobody can ever write to the region again, or change its size."""
        with self._own_handle(writable=False) as handle:
            return handle.sealed

    @limits.named
    def seal(self) -> None:
        """Make the region read-only for everybody, forever, this process included.

        On msharefs the seal takes effect at once in all processes. On a memfd the seal is refused while others can
        write. A second call does nothing. Raises `RegionBusyError`, which names the processes with a writable mapping,
        `ViewsAliveError` while views of this process live, `BackendUnavailableError` for files that cannot be sealed,
        and `AccessDeniedError`. A failed call changes nothing.
        """
        with mapping.lock, self.handle() as handle, ExitStack() as kept:
            if handle.sealed:
                return
            fd = handle.fileno()
            if not handles.can_seal(fd):
                raise BackendUnavailableError(
                    f"this region on {self.backend} cannot be sealed, or not any more, or not by a map-only handle",
                    "use create_anonymous(size), and seal it before map_only()",
                )
            assert self._area is not None
            file = self._area.file
            areas = [area for area in mapping.all_of("", {file}) if area.writable]
            if areas:  # a read-only `Region` may share a writable mapping, which has to be put back if this fails
                fd = kept.enter_context(_writable(fd))
            if not without_views(areas):
                raise views_alive(self.name)
            for area in areas:  # a signal handler that closes regions shall not unmap what is replaced here
                area.hold(kept.enter_context(mapping.Hold()))
            with Descriptor(f"/proc/self/fd/{fd}", os.O_RDONLY) as readonly_fd:
                try:
                    locks.try_read_lock(readonly_fd, ATTACHED_BYTE)
                    for area in areas:
                        area.replace(readonly_fd, writable=False)
                    handles.seal_file(fd)
                except BaseException as error:
                    locks.try_read_lock(fd, ATTACHED_BYTE)
                    for area in areas:
                        area.replace(fd, writable=True)
                    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EBADF):
                        raise AccessDeniedError(
                            f"uid {os.geteuid()} may not seal this region", "have its owner do it"
                        ) from error
                    if isinstance(error, OSError) and error.errno == errno.EBUSY:
                        who = format_list(proc.writers(file)) or "none that this process may see"
                        raise RegionBusyError(
                            f"processes can write to the region: {who}",
                            "have them close it, or attach it with readonly=True",
                        ) from error
                    raise

    @limits.named
    def link(self, name: str, *, mode: int = 0o600) -> None:
        """Give a region without a name this name, in one step. From then on the region is like all named regions.

        Raises `RegionExistsError` if the name is taken or the region has a name already, `InvalidNameError`,
        `BackendUnavailableError` for a region that was not created `linkable`.
        """
        names.check_name(name)
        mode = names.check_mode(mode)
        with self.handle() as handle:
            status = os.fstat(handle.fileno())
            if status.st_nlink:
                raise RegionExistsError("the region has a name", "use that one")
            root = roots.root_of(status.st_dev)
            if root is None:
                raise BackendUnavailableError(
                    f"memory of this kind ({self.backend}, a memfd) cannot have a name",
                    "use create_anonymous(size, linkable=True)",
                )
            try:
                os.fchmod(handle.fileno(), mode)
                names.publish(handle.fileno(), root, name)
            except BaseException as error:
                names.withdraw(handle.fileno(), root, name)
                os.fchmod(handle.fileno(), stat.S_IMODE(status.st_mode))
                if isinstance(error, FileNotFoundError):
                    raise BackendUnavailableError(
                        "the region had a name, which was removed: the kernel gives no second one", "make a new region"
                    ) from error
                raise
            with mapping.lock:
                self._name, self._root = name, root
                if self._area is not None:
                    self._area.published(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ViewsAliveError:
            if error is None:
                raise
            # The views belong to frames of the error on its way out. The error matters more, and the memory is given
            # back when the frames end.
            with mapping.lock:
                self._attached.let_go()

    def __reduce__(self) -> str:
        raise TypeError("a Region cannot be pickled: pass its name or `region.handle()`, and attach that there")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.addr:#x}{' read-only' if self.readonly else ''}"
        return f"<mshare.Region {self.name!r} {format_size(self.size)} {self.backend} {state}>"


def _dimensions(shape: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        return (whole(shape, "a shape"),)
    except TypeError:
        if not isinstance(shape, Iterable):
            raise
    return tuple(whole(number, "a dimension of a shape") for number in shape)


def without_views(areas: list[mapping.Mapping]) -> bool:
    """Let go of what views hang on, if nothing looks into the mappings. Under `mapping.lock`."""
    dropped = [owner.without_views() for area in areas for owner in area.owners() if isinstance(owner, Attached)]
    # Views have an owner, also those of a Region that is gone. What views hang on is made again on demand.
    return all(dropped) and all(isinstance(owner, Attached) for area in areas for owner in area.owners())


def views_alive(name: str) -> ViewsAliveError:
    return ViewsAliveError(
        f"memoryviews or arrays of region {name!r} are still alive", "delete or release() them, then close"
    )


def _writable(fd: int) -> AbstractContextManager[int]:
    """Return `fd`, or the same file opened for writing if `fd` is only open for reading. Raises `AccessDeniedError`."""
    if fcntl(fd, F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        return nullcontext(fd)
    try:
        return Descriptor(f"/proc/self/fd/{fd}", os.O_RDWR)
    except PermissionError as error:
        raise AccessDeniedError(f"uid {os.geteuid()} may not seal this region", "have its owner do it") from error
