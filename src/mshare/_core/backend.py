"""The contract of a backend, and the choice of one for a new region. May depend on: errors, units, geometry, record,
typed, linux.descriptors (the type).

A backend decides where a region's memory comes from, and thereby its page tables. Everything else (names, lifetime,
rights, addresses) is the same for all backends and lives in other modules. The implementations are in `backends/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from .errors import BackendUnavailableError, InvalidArgumentError
from .geometry import PMD, is_linked
from .linux.descriptors import Descriptor
from .record import Record, file_size
from .typed import NamedTuple, Protocol
from .units import format_apart, format_size

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a region's memory is being reserved."""


class Offer(NamedTuple):
    """The text of `mshare report` about a backend, for owners of programs that could move memory into a region."""

    title: str
    """The thing that is used, to be read after "with": a region of mshare."""
    condition: str
    """The conditions of the backend, and its costs."""
    setup: tuple[str, ...]
    """Lines for a shell that come before the region is made."""
    evidence: str
    """Our own measurements of the backend."""


class Capabilities(NamedTuple):
    """The properties in which backends differ. A backend may differ in nothing else."""

    leaf_size: int
    """Bytes one last-level page-table entry maps, for regions of at least that size."""
    file_unit: int
    """Bytes that file sizes are rounded up to."""
    map_unit: int
    """Bytes that mappings are rounded up to, and their addresses multiples of."""
    sparse: bool
    """True if a region with `reserve=False` may get this backend without being asked for by name: a touch takes
    memory that the machine has, and not a page of a pool that is empty as a rule."""
    handle_rights: bool
    """True if the kernel ties rights to handles of all files of the backend: `map_only` and `seal` work for all files,
    even for those that have or can have a name. If False, both work only for memfds, as far as seals allow."""
    shared_tables: str
    """The page tables that processes share, in words."""
    needs: str
    """The needs of the backend on a machine, in words."""
    offer: Offer | None = None
    """The text of reports about the backend; None if reports do not advise it."""
    other_leaf_size: int | None = None
    """Another size of leaves, if a region may choose."""

    @property
    def is_linked(self) -> bool:
        """True if processes map regions by linking (see `geometry.is_linked`)."""
        return is_linked(self.map_unit)


class Costs(NamedTuple):
    """Page-table bytes, by arithmetic, of processes that have each touched all of a region at the region's own address,
    which is 1 GiB-aligned. A process's topmost table exists anyway and is not counted."""

    leaf_process: int
    """Bytes of last-level tables one process maps the region with, as `VmPTE` counts them: tables that belong to the
    region are in no process's `VmPTE`."""
    leaf_total: int
    """Bytes of last-level tables of all processes together; a table that several processes share counts once."""
    all_process: int
    """Like `leaf_process`, for tables of all levels."""
    all_total: int
    """Like `leaf_total`, for tables of all levels."""
    note: str = ""
    """A sentence about the meaning of the numbers if processes share tables."""
    huge_pages: int = 0
    """2 MiB pages that the region and its record take out of the pool (`vm.nr_hugepages`)."""


class Availability(NamedTuple):
    """Whether this process could create a region with a backend now. If not, `remedy` says what to change."""

    usable: bool
    reason: str
    remedy: str = ""


class Space(NamedTuple):
    """Bytes that a backend could still give out, and the name of the limit."""

    free_bytes: int
    limit: str


class Wish(NamedTuple):
    """The properties of a new region that matter for the size of its leaves."""

    size_bytes: int
    reserve: bool
    leaf_size: int | None
    """The size that was asked for, if any."""


class LeafChoice(NamedTuple):
    """The size of a region's leaves, and the reason if the region could choose."""

    leaf_size: int
    reason: str = ""


class Backend(Protocol):
    """The contract of a backend; `mshare.testing.conformance` is its test."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def root(self) -> str | None:
        """Return the directory whose files are this backend's regions; None if the machine has no such directory."""

    def open_file(self) -> Descriptor:
        """Return a new, empty file without a name. Raises `OSError`."""

    def choose_leaf(self, fd: int, wish: Wish) -> LeafChoice:
        """Make the new file have the leaves that are wished for, or the best. Raises `BackendUnavailableError`,
        `OSError`."""

    def availability(self) -> Availability:
        """Tell whether this process could create a region now, apart from its size."""

    def space(self, node: int | None = None) -> Space:
        """Return how much could still be reserved, on one memory node if `node` is given."""

    def charge(self, length: int) -> int:
        """Return the bytes of `space` that a reserved file of `length` bytes takes: more than `length` if page tables
        count."""

    def costs(self, size_bytes: int, processes: int) -> Costs:
        """Return the cost of the page tables of a region of `size_bytes` that `processes` processes map. Pure: the
        answer is the same on every machine, even on one that cannot use the backend."""

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        """Reserve all `length` bytes of the file, whose first `mapped` bytes are mapped read-write at `addr`.

        Raises `OSError` (ENOSPC, ENOMEM) if there is not enough memory, `BackendUnavailableError` if there is memory,
        but not with this backend's leaf size.
        """

    def take(self, fd: int, start: int, end: int, addr: int) -> None:
        """Give the bytes from `start` to `end` of a region's file memory, while other processes may use the region.

        `start` and `end` are multiples of the file's unit, or the end of the file. The file is mapped read-write at
        `addr`. Bytes that have memory keep their content. Raises `OSError` (ENOSPC, ENOMEM) if there is not enough
        memory, and has then taken none (msharefs: see docs/known-gaps.md). Concurrent calls do no harm.
        """

    def write_record(self, fd: int, length: int, page: bytes) -> None:
        """Write `page` as the last 4,096 of the `length` bytes of the file."""

    def announce(self, fd: int, addr: int) -> None:
        """Tell the kernel the address of the new file, which nobody has mapped yet. Programs may ask the kernel for the
        address, and not our record. Raises `InvalidAddressError` if the kernel refuses. Most backends do nothing."""

    def adopt(self, fd: int, status: os.stat_result) -> Record | None:
        """Return a record for this file, which has none: a program without this library has made the region. None if
        the file is not on this backend's file system, or if that file system tells too little."""

    def attached(self, fd: int) -> bool:
        """Tell whether the kernel knows that a process maps this file, with our lock or without. False if the kernel
        does not say, and for files of other backends."""


class Request(NamedTuple):
    """The arguments of `create` that matter for the choice of a backend."""

    size_bytes: int
    reserve: bool = True
    addr: int | None = None
    node: int | None = None
    """The memory node on which all memory has to lie."""
    leaf_size: int | None = None
    """The wanted size of leaves."""
    root: str | None = None
    """The directory of the older region that the new one replaces: rename(2) works within one file system only."""


class Choice(NamedTuple):
    """Backends to try, best first, and the reasons against the others."""

    candidates: tuple[Backend, ...]
    rejected: tuple[tuple[str, str], ...]


def obstacle(backend: Backend, request: Request) -> str | None:
    """Return why `backend` can never serve `request`, or None."""
    able = backend.capabilities
    if request.root is not None and backend.root() != request.root:
        return f"the region to replace is a file in {request.root}"
    if request.leaf_size is not None and request.leaf_size not in (able.leaf_size, able.other_leaf_size):
        return f"its leaves are {format_size(able.leaf_size)}"
    align = max(able.leaf_size, able.map_unit)
    if request.addr is not None and request.addr % align:
        return f"address {request.addr:#x} is not a multiple of {format_size(align)}"
    return None


def find(backends: Sequence[Backend], name: str) -> Backend:
    """Return the backend with this name. Raises `InvalidArgumentError`."""
    names = [backend.name for backend in backends]
    if name not in names:
        raise InvalidArgumentError(f"there is no backend {name!r}", f"choose one of {', '.join(names)}")
    return backends[names.index(name)]


def choose(backends: Sequence[Backend], request: Request, forced: str | None = None) -> Choice:
    """Choose among `backends` (best first) for `request`. `forced` names the only acceptable backend.

    Raises `InvalidArgumentError` for an unknown name and `BackendUnavailableError` if the forced backend cannot be
    used. Only a reservation shows whether the memory is really there, so the caller tries the candidates in order.
    """
    if forced is not None:
        backend = find(backends, forced)
        why = obstacle(backend, request)
        if why is not None:
            raise BackendUnavailableError(f"backend {forced} cannot do this: {why}", "change that or the backend")
        available = backend.availability()
        if not available.usable:
            raise BackendUnavailableError(f"backend {forced} cannot be used here: {available.reason}", available.remedy)
        return Choice((backend,), ())
    candidates: list[Backend] = []
    rejected: list[tuple[str, str]] = []
    for backend in backends:
        why = obstacle(backend, request)
        if why is None and request.size_bytes < PMD <= backend.capabilities.leaf_size:
            why = "the region is smaller than one 2 MiB leaf"
        if why is None and not request.reserve and not backend.capabilities.sparse:
            why = "a touch without a free page there is SIGBUS (reserve=False: ask for it by name)"
        if why is None:
            available = backend.availability()
            why = None if available.usable else available.reason
        if why is None and request.reserve and backend is not backends[-1]:
            space = backend.space(request.node)
            needed = backend.charge(file_size(request.size_bytes, backend.capabilities.file_unit))
            if needed > space.free_bytes:
                need, free = format_apart(needed, space.free_bytes)
                why = f"{need} do not fit into {free} ({space.limit})"
        if why is None:
            candidates.append(backend)
        else:
            rejected.append((backend.name, why))
    if not candidates:
        name, why = rejected[-1]
        remedy = backends[-1].availability().remedy or "run `mshare doctor`"
        raise BackendUnavailableError(f"no backend can be used here ({name}: {why})", remedy)
    return Choice(tuple(candidates), tuple(rejected))


def explain(backend: Backend, rejected: Sequence[tuple[str, str]], *, forced: bool) -> str:
    """Return one line with the reason for which a region got `backend`."""
    if forced:
        return "asked for by name"
    return "; ".join([f"best of those usable: {backend.name}", *(f"{name}: {why}" for name, why in rejected)])
