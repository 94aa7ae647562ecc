"""Attaching and using regions. May depend on: registry, mapping, linux."""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import replace
from pathlib import Path
from secrets import randbits
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from . import mapping, registry
from .errors import (
    AccessDeniedError,
    InvalidAddressError,
    InvalidFlagsError,
    InvalidSizeError,
    NoSpaceError,
    RegionBusyError,
    RegionClosedError,
    RegionNotFoundError,
    ViewsAliveError,
)
from .geometry import USER_END, Span, pick_address, round_up
from .linux import proc
from .procfs import FileId
from .record import Record, RegionInfo
from .units import format_size

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike


class _Anywhere:
    def __repr__(self) -> str:
        return "mshare.ANYWHERE"


ANYWHERE: Final = _Anywhere()
"""As `addr=` of `attach`: any free address of this process will do."""


class Region(mapping.Owner):
    """A region as this process has it attached. Made by `create` and `attach`; usable as a context manager.

    The attachment ends with `close`, with the `with` block, with the garbage collection of the object and all its
    views, or with the process, whatever ends it. None of these removes the name.
    """

    def __init__(self, name: str, root: Path, status: os.stat_result, record: Record, *, readonly: bool) -> None:
        """`root`, `status` and `record`: the file as it is at this moment. Of use once it owns a mapping (`area`), at
        the record's address unless told otherwise."""
        self._name = name
        self._root = root
        self._status = status
        self._record = record
        self._readonly = readonly
        self._exporter: mapping.Exporter | None = None
        """What all views hang on; made for the first."""
        self._closed = False
        self._addr = record.addr

    @property
    def name(self) -> str:
        """The region's name, as it was when attached."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes, as asked for at creation."""
        return self._record.size_bytes

    @property
    def addr(self) -> int:
        """Address of the first byte in this process: the region's own, unless attached elsewhere."""
        return self._addr

    @property
    def readonly(self) -> bool:
        """True if this object gives no write access."""
        return self._readonly

    @property
    def backend(self) -> str:
        """Name of the backend that holds the region; `info().reason` says why it was chosen."""
        return self._record.backend

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def buf(self) -> memoryview:
        """The region's bytes, zero copy; read-only if the region is. While it or anything made from it lives, the
        region cannot be closed. Raises `RegionClosedError`."""
        with mapping.lock:
            if self._exporter is None and not self._closed and self.area is not None:
                self._exporter = self.area.export(self.size)
            if self._exporter is None:
                raise RegionClosedError(f"region {self.name!r} is closed", "attach it again")
            view = memoryview(self._exporter).cast("B")
            return view.toreadonly() if self._readonly else view

    def ndarray(
        self, dtype: DTypeLike, shape: int | tuple[int, ...], offset: int = 0
    ) -> numpy.ndarray[Any, numpy.dtype[Any]]:
        """Return a numpy array over the region's memory, zero copy, from byte `offset` on, in C order.

        Needs numpy (the extra `numpy`). Raises `InvalidSizeError` if it does not fit,
        `InvalidFlagsError` for a dtype that holds Python objects, `RegionClosedError`.
        """
        import numpy

        if offset < 0:
            raise InvalidSizeError(f"offset {offset} is negative", "count it from the region's first byte")
        view = self.buf
        kind = numpy.dtype(dtype)
        if kind.hasobject:
            raise InvalidFlagsError(
                f"dtype {kind} holds pointers of one process", "use numbers, booleans or fixed-size strings"
            )
        dimensions = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        count = math.prod(dimensions)
        try:
            if min(dimensions, default=0) < 0:
                raise ValueError("negative dimensions")
            # Not numpy.ndarray(buffer=view): it takes what lies under a read-only view, and does not hold the view.
            return numpy.frombuffer(view, kind, count, offset).reshape(dimensions)
        except ValueError as error:
            raise InvalidSizeError(
                f"an array of {shape} x {kind} from byte {offset} does not fit into region "
                f"{self.name!r} of {self.size} bytes ({error})",
                "make it smaller, or the region larger",
            ) from error

    def info(self) -> RegionInfo:
        """Return the region as it is now. Costs one pass over /proc. Raises `RegionClosedError`."""
        if self.closed:
            raise RegionClosedError(f"region {self.name!r} is closed", "see mshare.regions()")
        assert self.area is not None
        file = self.area.file
        pids = proc.processes_mapping({file})[file]
        status, linked = self._status, False
        try:
            with registry.find(self.name) as entry:
                if entry.file == file:
                    status, linked = entry.status, True
        except (RegionNotFoundError, OSError):
            pass
        info = registry.describe(self.name, self._root, status, self._record, locked=True, pids=pids)
        return replace(info, linked=linked)

    def close(self) -> None:
        """Detach: end this object's use of the region. A second call does nothing. Never removes the name.

        Raises `ViewsAliveError` (a `BufferError`), and changes nothing, while a memoryview, slice or array of this
        object lives.
        """
        with mapping.lock:
            if not self._drop_exporter():
                raise _views_alive(self.name)
            self._let_go()

    def _drop_exporter(self) -> bool:
        """Let go of the exporter; False, with nothing changed, if views keep it alive."""
        if self._exporter is None:
            return True
        watch = weakref.ref(self._exporter)
        self._exporter = None
        self._exporter = watch()
        return self._exporter is None

    def _let_go(self) -> None:
        self._closed = True
        self._exporter = None
        if self.area is not None:
            self.area.release(self)

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
            # The views belong to frames of the error on its way out: it matters more, and the memory is given back
            # when they go.
            with mapping.lock:
                self._let_go()

    def __reduce__(self) -> str:
        raise TypeError("a Region cannot be pickled: pass its name and call mshare.attach(name) there")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.addr:#x}{' read-only' if self.readonly else ''}"
        return f"<mshare.Region {self.name!r} {format_size(self.size)} {self.backend} {state}>"


def _views_alive(name: str) -> ViewsAliveError:
    return ViewsAliveError(
        f"memoryviews or arrays of region {name!r} are still alive", "delete or release() them, then close"
    )


def check_address(addr: int, size: int, unit: int) -> None:
    if not isinstance(addr, int):
        raise TypeError(f"an address is an int, not {type(addr).__name__}")
    if addr <= 0 or addr % unit:
        raise InvalidAddressError(
            f"address {addr:#x} is no positive multiple of {format_size(unit)}", "round it, or pass None"
        )
    if addr + size > USER_END:
        raise InvalidAddressError(
            f"{addr:#x} plus {format_size(size)} ends above user space ({USER_END:#x})",
            "choose a lower address",
        )


def free_address(seed: int, size: int, known: list[Span]) -> int:
    """Return an address clear of what this process has mapped right now, and of `known` regions if they leave room."""
    mine = [vma.span for vma in proc.maps()]
    addr = pick_address(seed, size, [*known, *mine])
    if addr is None:  # a hostile file may claim the whole window
        addr = pick_address(seed, size, mine)
    if addr is None:
        raise NoSpaceError(
            f"no {format_size(size)} of addresses are free in mshare's window",
            "pass addr= yourself, or remove regions",
        )
    return addr


def attach(
    name: str, *, readonly: bool = False, addr: int | _Anywhere | None = None, owner: int | None = None
) -> Region:
    """Attach an existing region and return it, at the same address as in every other process.

    - `readonly`: the kernel will refuse every write through it: stores, `mprotect`, system calls.
    - `addr`: None for the region's own address, `ANYWHERE`, or an address of your own: a multiple of the leaf size, on
      msharefs of 1 GiB.
    - `owner`: refuse a region that does not belong to this uid. Names are first come, first served in a root that
      all users may write to: say it when you attach what another user made.

    What this process has at that address already gives another `Region` over the same mapping.

    Raises `RegionNotFoundError`, `NotARegionError`, `AccessDeniedError`, `AddressTakenError`, `InvalidAddressError`,
    `ReadOnlyMappingError` (read-write asked where this process has it mapped read-only), `RegionBusyError` (a remover
    does not finish). Costs about ten system calls, whatever the region's size.
    """
    return attach_length(name, readonly=readonly, addr=addr, owner=owner, length=0)


def attach_length(name: str, *, readonly: bool, addr: int | _Anywhere | None, owner: int | None, length: int) -> Region:
    """`attach`, for a caller who also says how long the region is (0: does not)."""
    registry.check_name(name)
    opened = registry.open_to_attach(name, writable=not readonly)
    if opened is None:
        opened = _wait_to_open(name, writable=not readonly)
    file, root, status = opened
    with file as fd:
        record = registry.read_record(name, fd, status)
        if length not in (0, record.size_bytes):
            raise InvalidSizeError(
                f"region {name!r} has {record.size_bytes} bytes, not {length}",
                "pass that length, or 0 for all of it",
            )
        if owner is not None and status.st_uid != owner:
            raise AccessDeniedError(f"region {name!r} belongs to uid {status.st_uid}, not {owner}", "check who made it")
        if record.frozen and not readonly:
            raise AccessDeniedError(
                f"region {name!r} was created read-only for everybody", "attach it with readonly=True"
            )
        region = Region(name, root, status, record, readonly=readonly)
        _map(fd, FileId(status.st_dev, status.st_ino), region, addr)
        return region


def _wait_to_open(name: str, *, writable: bool) -> registry.Opened:
    """`registry.open_to_attach`, when somebody is removing the region: they need microseconds, unless they stopped."""
    found: list[registry.Opened] = []

    def look() -> bool:
        opened = registry.open_to_attach(name, writable=writable)
        found.extend([opened] if opened is not None else [])
        return opened is not None

    if not registry.wait(look):
        raise RegionBusyError(f"region {name!r} is being removed by somebody who does not finish", "try again later")
    return found[0]


def _map(fd: int, file: FileId, region: Region, addr: int | _Anywhere | None) -> None:
    """Make `region` an owner of this process's mapping of the open file, an old or a new one."""
    record, writable = region._record, not region.readonly
    length = round_up(record.size_bytes, record.unit)
    with mapping.lock:
        if isinstance(addr, _Anywhere):
            area = mapping.map_file(
                fd,
                file,
                length,
                writable=writable,
                next_addr=lambda: free_address(randbits(32), record.size_bytes, []),
                fixed=False,
                owner=region,
            )
        else:
            if addr is not None:
                check_address(addr, record.size_bytes, record.align)
            wanted = record.addr if addr is None else addr
            area = mapping.find(file, wanted, writable=writable, owner=region) or mapping.map_file(
                fd, file, length, writable=writable, next_addr=lambda: wanted, fixed=True, owner=region
            )
        area.published(region.name)
        region._addr = area.addr


def detach_all(name: str) -> list[FileId]:
    """Close every open `Region` of `name` in this process, or none: returns the files that were attached.

    Raises `ViewsAliveError`, with nothing changed, if a view of one of them is alive.
    """
    with mapping.lock:
        areas = mapping.all_of(name)
        mine = [owner for area in areas for owner in area.owners() if isinstance(owner, Region)]
        dropped = [region._drop_exporter() for region in mine]
        # Views have an owner, also those of a Region that is gone. A dropped exporter is made anew on demand.
        if not all(dropped) or any(not isinstance(owner, Region) for area in areas for owner in area.owners()):
            raise _views_alive(name)
        for region in mine:
            region._let_go()
        return [area.file for area in areas]
