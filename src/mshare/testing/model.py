"""The reference model: the right result of every call, by plain dictionaries and no operating system. Pure.
May depend on: errors, geometry.

Tests run each operation here and for real, and compare the results. The model is naive on purpose: it has no locks,
files or mappings that could go wrong, only regions, processes and attachments. A method returns the right result of the
real call, or raises the right error class (with the model's own text).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from .._core.errors import (
    AccessDeniedError,
    AddressTakenError,
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidSizeError,
    ReadOnlyMappingError,
    RegionBusyError,
    RegionClosedError,
    RegionExistsError,
    RegionNotFoundError,
)
from .._core.geometry import PAGE, Span

_HINT = "the model says so"

NAMED, LINKABLE, MEMFD = "created with a name", "can have a name", "can be sealed"
"""Kinds of regions. Nothing can be both: files of a mounted tmpfs cannot be sealed, a memfd can have no name."""


@dataclass(eq=False)
class ModelRegion:
    """Memory with a name or without. The memory lives while it has its name or an attachment. Two regions can have had
    the same name."""

    name: str
    """The last name of the region; empty if it has had none."""
    size: int
    addr: int
    frozen: bool
    kind: str = NAMED
    sealed: bool = False
    data: dict[int, int] = field(default_factory=dict)
    """Bytes that were stored, by offset; all others are zero."""

    @property
    def span(self) -> Span:
        return Span(self.addr, self.addr + self.size)

    def load(self, offset: int) -> int:
        return self.data.get(offset, 0)


@dataclass(eq=False)
class Attached:
    """One `Region` object of one process."""

    region: ModelRegion
    readonly: bool
    writes: bool | None = None
    """Whether the kept handle can write. None if there is no handle, because the region was attached by name, or was
    created with a name. A handle of such a region is opened by name, with the rights of the attachment."""
    name: str = ""
    """The name by which the object was made, or which it gave the region; empty for an attachment by handle."""


@dataclass
class ModelProcess:
    """The attachments of one process, by number; `writable` has the rights of its mapping of each region."""

    attached: dict[int, Attached] = field(default_factory=dict)
    writable: dict[int, bool] = field(default_factory=dict)
    known: dict[int, str] = field(default_factory=dict)
    """The name by which the process last attached each region, or which it gave the region."""

    def mapped(self) -> list[ModelRegion]:
        return list({id(a.region): a.region for a in self.attached.values()}.values())


class Seen(tuple[int, bool, tuple[int, ...], bool]):
    """The facts that `regions()` must show about one region: (size, frozen, pids, orphan)."""

    __slots__ = ()


class Model:
    """All regions and processes of one world."""

    def __init__(self, *, handle_rights: bool = False, file_unit: int = PAGE) -> None:
        """`handle_rights`, `file_unit`: the fields of the backend's `Capabilities`."""
        self.handle_rights = handle_rights
        self.file_unit = file_unit
        self.names: dict[str, ModelRegion] = {}
        self.processes: dict[int, ModelProcess] = {}
        self._numbers = count(1)

    # processes

    def start(self, pid: int) -> None:
        """A process that has nothing attached appears."""
        self.processes[pid] = ModelProcess()

    def fork(self, parent: int, child: int) -> None:
        """A child appears with its parent's attachments, by the same numbers."""
        source = self.processes[parent]
        copies = {number: Attached(a.region, a.readonly, a.writes, a.name) for number, a in source.attached.items()}
        self.processes[child] = ModelProcess(copies, dict(source.writable), dict(source.known))

    def kill(self, pid: int) -> None:
        """A process disappears, and its attachments with it; no name changes."""
        del self.processes[pid]

    # operations

    def new_number(self) -> int:
        """Return a number that no attachment has had."""
        return next(self._numbers)

    def create(
        self, pid: int, number: int, name: str, size: int, addr: int, *, frozen: bool = False, replace: bool = False
    ) -> None:
        """`addr` is the real region's address, or 0 if the region was not made."""
        if name in self.names and not replace:
            raise RegionExistsError(name, _HINT)
        region = ModelRegion(name, size, addr, frozen)
        self.names[name] = region
        self._map(pid, number, region, readonly=frozen)
        self._name(pid, number, name)

    def attach(self, pid: int, number: int, name: str, *, readonly: bool) -> int:
        """Return the address of the attachment."""
        region = self._named(name)
        if (region.frozen or region.sealed) and not readonly:
            raise AccessDeniedError(name, _HINT)
        addr = self._attach(pid, number, region, readonly=readonly)
        self._name(pid, number, name)
        return addr

    def superseded(self, pid: int, number: int) -> bool:
        """Tell whether the object's name means another region now."""
        attached = self._attached(pid, number)
        return self.names.get(attached.name, attached.region) is not attached.region

    def reattach(self, pid: int, number: int) -> int:
        """Attach what the object's name means now, by the same number. Return the address."""
        attached = self._attached(pid, number)
        if not attached.name:
            raise InvalidArgumentError("no name", _HINT)
        if self._named(attached.name) is attached.region:
            return attached.region.addr
        readonly = attached.readonly or not self.processes[pid].writable[id(attached.region)]
        newer = self.new_number()
        addr = self.attach(pid, newer, attached.name, readonly=readonly)
        self.close(pid, number)
        self.processes[pid].attached[number] = self.processes[pid].attached.pop(newer)
        return addr

    def _attach(self, pid: int, number: int, region: ModelRegion, *, readonly: bool) -> int:
        process = self.processes[pid]
        if region in process.mapped():
            if not readonly and not process.writable[id(region)]:
                raise ReadOnlyMappingError(region.name, _HINT)
        elif any(region.span.overlaps(other.span) for other in process.mapped()):
            raise AddressTakenError(region.name, _HINT)
        self._map(pid, number, region, readonly=readonly)
        return region.addr

    def create_anonymous(self, pid: int, number: int, size: int, addr: int, *, linkable: bool) -> None:
        """A region without a name appears."""
        region = ModelRegion("", size, addr, False, LINKABLE if linkable else MEMFD)
        self._map(pid, number, region, readonly=False)
        self.processes[pid].attached[number].writes = True

    def give(self, pid: int, number: int, to: int, new_number: int, *, readonly: bool | None) -> int:
        """Send the region's handle to another process, which attaches. Return the address."""
        region, giver = self._with_handle(pid, number), self._attached(pid, number)
        writes = not giver.readonly if giver.writes is None else giver.writes
        if readonly is None:
            readonly = region.sealed or not writes
        addr = self._attach(to, new_number, region, readonly=readonly)
        self.processes[to].attached[new_number].writes = writes
        return addr

    def seal(self, pid: int, number: int) -> None:
        """Make the region read-only forever, if nobody else can write. (With `handle_rights` others lose the right at
        once and die of the next store, and the state machine could not go on.)"""
        region = self._with_handle(pid, number)
        if region.sealed:
            return
        if region.kind != MEMFD and not self.handle_rights:
            raise BackendUnavailableError(region.kind, _HINT)
        if region.kind == NAMED and not self.processes[pid].writable[id(region)]:
            raise AccessDeniedError(region.name, _HINT)
        for other, process in self.processes.items():
            if other != pid and process.writable.get(id(region)):
                raise RegionBusyError(str(other), _HINT)
        region.sealed = True
        process = self.processes[pid]
        process.writable[id(region)] = False
        for attached in process.attached.values():
            attached.readonly |= attached.region is region

    def link(self, pid: int, number: int, name: str) -> None:
        """Give the region its first name."""
        region = self._with_handle(pid, number)
        if self.names.get(region.name) is region:
            raise RegionExistsError(region.name, _HINT)
        if region.kind == MEMFD and not self.handle_rights:
            raise BackendUnavailableError(region.kind, _HINT)
        if name in self.names:
            raise RegionExistsError(name, _HINT)
        if region.name:
            raise BackendUnavailableError("it had a name", _HINT)
        region.name = name
        self._name(pid, number, name)
        self.names[name] = region

    def store(self, pid: int, number: int, offset: int, value: int) -> None:
        attached = self._attached(pid, number)
        if attached.readonly:
            raise TypeError("cannot modify read-only memory")
        attached.region.data[offset] = value

    def populate(self, pid: int, number: int, offset: int, length: int | None) -> None:
        """Give a range memory: no byte changes."""
        self._writable(pid, number, offset, length)
        self._with_handle(pid, number)

    def discard(self, pid: int, number: int, offset: int, length: int | None) -> None:
        """Take the memory of a range away: its bytes are zero."""
        end = self._writable(pid, number, offset, length)
        region = self._attached(pid, number).region
        if offset % self.file_unit or (end % self.file_unit and end != region.size):
            raise InvalidSizeError("not whole pages", _HINT)
        region.data = {at: value for at, value in region.data.items() if not offset <= at < end}

    def _writable(self, pid: int, number: int, offset: int, length: int | None) -> int:
        """Return the end of the range."""
        attached = self._attached(pid, number)
        end = attached.region.size if length is None else offset + length
        if not 0 <= offset <= end <= attached.region.size:
            raise InvalidSizeError("not a range", _HINT)
        if attached.readonly:
            raise ReadOnlyMappingError(attached.region.name, _HINT)
        return end

    def load(self, pid: int, number: int, offset: int) -> int:
        return self._attached(pid, number).region.load(offset)

    def close(self, pid: int, number: int) -> None:
        """Close a closed attachment again: nothing happens."""
        process = self.processes[pid]
        attached = process.attached.pop(number, None)
        if attached is not None and attached.region not in process.mapped():
            del process.writable[id(attached.region)]
            process.known.pop(id(attached.region), None)

    def unlink(self, name: str) -> None:
        self._named(name)
        del self.names[name]

    def mshare_unlink(self, pid: int, name: str) -> bool:
        process = self.processes[pid]
        mine = [
            number
            for number, a in process.attached.items()
            if process.known.get(id(a.region)) == name or self.names.get(name) is a.region
        ]
        regions = [process.attached[number].region for number in mine]
        for number in mine:
            self.close(pid, number)
        region = self.names.get(name)
        if not mine and region is None:
            raise RegionNotFoundError(name, _HINT)
        if region is None or (mine and region not in regions):
            return True
        if self.pids(region):
            if mine:
                return False
            raise RegionBusyError(name, _HINT)
        del self.names[name]
        return True

    def gc(self) -> set[str]:
        """Remove orphans; return their names."""
        orphans = {name for name, region in self.names.items() if not self.pids(region)}
        for name in orphans:
            del self.names[name]
        return orphans

    # what can be seen

    def everything(self) -> list[ModelRegion]:
        """Return the regions that have a name or an attachment."""
        mapped = [region for process in self.processes.values() for region in process.mapped()]
        return list({id(region): region for region in [*self.names.values(), *mapped]}.values())

    def pids(self, region: ModelRegion) -> tuple[int, ...]:
        """Return the processes that have the region attached, in order."""
        return tuple(sorted(pid for pid, process in self.processes.items() if region in process.mapped()))

    def regions(self) -> dict[str, Seen]:
        """Return the facts that `regions()` must show, by name."""
        shown = {}
        for name, region in self.names.items():
            pids = self.pids(region)
            shown[name] = Seen((region.size, region.frozen, pids, not pids))
        return shown

    def _named(self, name: str) -> ModelRegion:
        if name not in self.names:
            raise RegionNotFoundError(name, _HINT)
        return self.names[name]

    def _attached(self, pid: int, number: int) -> Attached:
        attached = self.processes[pid].attached.get(number)
        if attached is None:
            raise RegionClosedError(str(number), _HINT)
        return attached

    def _with_handle(self, pid: int, number: int) -> ModelRegion:
        """The region, if the process can have a handle of it. A process that keeps no descriptor needs the name."""
        attached = self._attached(pid, number)
        if attached.writes is None and self.names.get(attached.region.name) is not attached.region:
            raise RegionNotFoundError(attached.region.name, _HINT)
        return attached.region

    def _name(self, pid: int, number: int, name: str) -> None:
        attached = self.processes[pid].attached[number]
        attached.name = self.processes[pid].known[id(attached.region)] = name

    def _map(self, pid: int, number: int, region: ModelRegion, *, readonly: bool) -> None:
        process = self.processes[pid]
        process.writable.setdefault(id(region), not readonly)
        process.attached[number] = Attached(region, readonly)
