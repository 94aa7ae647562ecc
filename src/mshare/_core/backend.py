"""What a backend is, and which one a new region gets. May depend on: errors, units, geometry, record,
typed, linux.descriptors (the type).

A backend decides where a region's memory comes from and with that its page tables; everything else (names, lifetime,
rights, addresses) is the same for all and lives above. The implementations are in `backends/`.
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
    """What `mshare report` says of a backend to the owners of programs that could move memory into a region on it."""

    title: str
    """What is used, to be read after "with": a region of mshare."""
    condition: str
    """When it can be had, and what it costs."""
    setup: tuple[str, ...]
    """Lines for a shell that come before the region is made."""
    evidence: str
    """What we have seen of it ourselves."""


class Capabilities(NamedTuple):
    """How a backend differs from the others, and the only ways in which it may."""

    leaf_size: int
    """Bytes one last-level page-table entry maps, for regions of at least that size."""
    file_unit: int
    """Bytes that file sizes are rounded up to."""
    map_unit: int
    """Bytes that mappings are rounded up to, and their addresses multiples of."""
    sparse: bool
    """True if `reserve=False` is possible: memory on first touch."""
    handle_rights: bool
    """True if the kernel ties rights to handles of any of its files: `map_only` and `seal` work for all, also for those
    that have or can have a name. Else for memfds, as far as seals go."""
    shared_tables: str
    """Which page tables processes have in common, in words."""
    needs: str
    """What the machine must offer, in words."""
    offer: Offer | None = None
    """What reports say of it; None if they do not advise it."""

    @property
    def is_linked(self) -> bool:
        """True if processes map regions by linking (see `geometry.is_linked`)."""
        return is_linked(self.map_unit)


class Costs(NamedTuple):
    """Page-table bytes, by arithmetic, of processes that have each touched all of a region at its own address, which is
    1 GiB-aligned. A process's topmost table exists anyway and is not counted."""

    leaf_process: int
    """Bytes of last-level tables one process maps the region with, as `VmPTE` counts them: tables that belong to the
    region are in no process's `VmPTE`."""
    leaf_total: int
    """Bytes of last-level tables of all processes together; a table that several have in common counts once."""
    all_process: int
    """As `leaf_process`, tables of all levels."""
    all_total: int
    """As `leaf_total`, tables of all levels."""
    note: str = ""
    """What the numbers mean where processes have tables in common: a sentence."""
    huge_pages: int = 0
    """2 MiB pages that the region and its record take out of the pool (`vm.nr_hugepages`)."""


class Availability(NamedTuple):
    """Whether this process could create a region with a backend now. `remedy` says what to change if not."""

    usable: bool
    reason: str
    remedy: str = ""


class Space(NamedTuple):
    """Bytes a backend could still give out, and what sets that limit."""

    free_bytes: int
    limit: str


class Backend(Protocol):
    """The contract of a backend; `mshare.testing.conformance` is its test."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def root(self) -> str | None:
        """Return the directory whose files are this backend's regions; None if the machine has no such place."""

    def open_file(self) -> Descriptor:
        """Return a new, empty file without a name. Raises `OSError`."""

    def availability(self) -> Availability:
        """Tell whether this process could create a region now, apart from its size."""

    def space(self) -> Space:
        """Return how much could still be reserved."""

    def charge(self, length: int) -> int:
        """Return the bytes of `space` that a reserved file of `length` bytes takes: more than `length` where page
        tables count."""

    def costs(self, size_bytes: int, processes: int) -> Costs:
        """Return what the page tables of a region of `size_bytes` cost that `processes` processes map. Pure: the same
        on every machine, usable there or not."""

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        """Reserve all `length` bytes of the file, whose first `mapped` bytes are mapped read-write at `addr`.

        Raises `OSError` (ENOSPC, ENOMEM) if they cannot be had, `BackendUnavailableError` if they can, but not
        with this backend's leaf size.
        """

    def write_record(self, fd: int, length: int, page: bytes) -> None:
        """Write `page` as the last 4,096 of the `length` bytes of the file."""

    def announce(self, fd: int, addr: int) -> None:
        """Tell the kernel where everybody will attach the new file, which nobody has mapped yet, for programs that ask
        the kernel and not our record. Raises `InvalidAddressError` if it refuses. Most kernels do not want to know."""

    def adopt(self, fd: int, status: os.stat_result) -> Record | None:
        """Return what a record would say of this file, which has none: a region made by a program without this
        library. None if it is not on this backend's file system, or that tells too little."""

    def attached(self, fd: int) -> bool:
        """Tell whether the kernel knows that somebody maps this file, with our lock or without. False where it does not
        say, and for files of other backends."""


class Request(NamedTuple):
    """What `create` was asked for, as far as the choice of backend goes."""

    size_bytes: int
    reserve: bool = True
    addr: int | None = None


class Choice(NamedTuple):
    """Backends to try, best first, and why the others are out."""

    candidates: tuple[Backend, ...]
    rejected: tuple[tuple[str, str], ...]


def obstacle(backend: Backend, request: Request) -> str | None:
    """Return why `backend` cannot serve `request`, whatever the machine offers, or None."""
    able = backend.capabilities
    if not request.reserve and not able.sparse:
        return "it always reserves its memory (reserve=False was asked)"
    align = max(able.leaf_size, able.map_unit)
    if request.addr is not None and request.addr % align:
        return f"address {request.addr:#x} is not a multiple of {format_size(align)}"
    return None


def find(backends: Sequence[Backend], name: str) -> Backend:
    """Return the one of `backends` that has this name. Raises `InvalidArgumentError`."""
    names = [backend.name for backend in backends]
    if name not in names:
        raise InvalidArgumentError(f"there is no backend {name!r}", f"choose one of {', '.join(names)}")
    return backends[names.index(name)]


def choose(backends: Sequence[Backend], request: Request, forced: str | None = None) -> Choice:
    """Choose among `backends` (best first) for `request`. `forced` is the one name that will do.

    Raises `InvalidArgumentError` for an unknown name and `BackendUnavailableError` if the forced one cannot be used.
    Whether the memory is really there shows only when it is reserved: the caller tries the candidates in order.
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
        if why is None:
            available = backend.availability()
            why = None if available.usable else available.reason
        if why is None and request.reserve:
            space = backend.space()
            needed = backend.charge(file_size(request.size_bytes, backend.capabilities.file_unit))
            if needed > space.free_bytes and backend is not backends[-1]:
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
    """Return one line that says why a region got `backend`."""
    if forced:
        return "asked for by name"
    return "; ".join([f"best of those usable: {backend.name}", *(f"{name}: {why}" for name, why in rejected)])
