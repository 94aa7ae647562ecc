"""The cost of page tables on the machine of a snapshot, object by object, now and with other tables. Pure.
May depend on: snapshot, tables, geometry, backend (the type).

`VmPTE` is exact, and counts all page tables of one process but the topmost. The kernel does not tell the part of each
mapping. That part lies within bounds (`tables`), or is known from a walk of the page tables (`Snapshot.exact`).
Two kinds of tables belong to several processes. The PMD page of 1 GiB of huge pages that is mapped at a multiple of
1 GiB is in every process's `VmPTE` and once in memory (mm/hugetlb.c, huge_pmd_share). The tables of msharefs are in no
process's `VmPTE`, and belong to the region.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..._core.geometry import PAGE, PMD, PUD
from .snapshot import PRIVATE, Area, Filled, Object, Process, Snapshot
from .tables import Charge, Need, Piece, blocks, charge, needs

if TYPE_CHECKING:
    from ..._core.backend import Capabilities


class Bytes(NamedTuple):
    """Bytes of page-table pages in memory. The truth lies between `lower` and `upper`. `likely` is the value for which
    all parts add up to the tables of the processes. In an exact survey all three are the same."""

    lower: int
    likely: int
    upper: int

    @classmethod
    def total(cls, parts: Iterable[Bytes]) -> Bytes:
        """Return the sum of `parts`, which is nothing if there are none."""
        return cls(*map(sum, zip(cls(0, 0, 0), *parts, strict=True)))


class WhatIf(NamedTuple):
    """Page-table bytes of one object in some number of processes, by arithmetic."""

    now: int
    """The cost with the present mappings."""
    shared: int
    """One set of tables for all processes, as on msharefs, and one PUD page per process and 512 GiB."""
    leaves_2m: int
    """Private tables with 2 MiB leaves: PMD pages and PUD pages."""
    leaves_1g: int
    """Private tables with 1 GiB leaves: PUD pages."""

    def on(self, able: Capabilities) -> int:
        """Return the costs in a region on a backend that is so `able`."""
        return self.shared if able.is_linked else self.leaves_2m if able.leaf_size == PMD else self.now


class ObjectUsage(NamedTuple):
    """The page tables of one object, or of all private memory."""

    object: Object | None
    """None for private anonymous memory."""
    size: int
    """Bytes from the start of the object to the end of its furthest mapping; of private memory, all mappings."""
    by_process: dict[int, int]
    """Likely page-table bytes by pid, as `VmPTE` counts them."""
    now: Bytes
    sharers: frozenset[int]
    """The processes that map it MAP_SHARED: their tables could be shared."""
    private_bytes: int
    """Likely bytes of processes that do not share: only larger leaves would make these less."""
    own_bytes: int
    """Tables that belong to the region and to no process (msharefs)."""
    pmd_once_bytes: int
    """PMD pages that the kernel shares already (hugetlb)."""
    pmd_bytes: int
    """Other PMD pages of all processes (upper bound, unless exact)."""
    pud_bytes: int
    """PUD pages of all processes, likewise."""
    sharers_pud_bytes: int
    """PUD pages of the sharers."""
    once_bytes: int
    """PTE and PMD pages of all parts that the sharers map, counted once: the cost of one shared set."""

    @property
    def shared(self) -> bool:
        """True if a process maps the object MAP_SHARED."""
        return bool(self.sharers)

    @property
    def processes(self) -> int:
        return len(self.by_process)

    def what_if(self, processes: int | None = None) -> WhatIf | None:
        """Return the costs with `processes` processes that map as these do on average, by default as many as there are;
        None for private memory and for objects that nobody maps shared. More processes map the same parts."""
        if not self.shared:
            return None
        factor = (processes or self.processes) / self.processes
        fixed = self.own_bytes + self.pmd_once_bytes
        return WhatIf(
            round(fixed + (self.now.likely - fixed) * factor),
            round(self.once_bytes + (self.private_bytes + self.sharers_pud_bytes) * factor),
            round(self.pmd_once_bytes + (self.pmd_bytes + self.pud_bytes) * factor),
            round(self.pud_bytes * factor),
        )


class Totals(NamedTuple):
    """All page tables, in bytes: `PageTables` = `processes` + `unreadable` - `counted_twice` + `regions` + what is left
    `unexplained`."""

    page_tables: int
    """`PageTables` of /proc/meminfo."""
    processes: int
    """Sum of `VmPTE` of all processes whose mappings were read."""
    unreadable: int
    """Sum of `VmPTE` of the others: /proc/PID/status is readable where maps is not."""
    counted_twice: int
    """Tables that the kernel shares between processes (hugetlb) and `VmPTE` counts in each."""
    regions: int
    """Tables of msharefs regions: in no `VmPTE`."""
    top_tables: int
    """One page per process for the topmost table. Newer kernels count them in `PageTables` (seen: 6.18 does), so they
    may be a part of what is unexplained."""
    pud_tables: int
    """PUD pages (upper bound, unless exact). Older kernels have them in `VmPTE` but do not count them in `PageTables`
    (seen: 6.1 does not), so `unexplained` may be negative by as much."""
    empty: int
    """In an exact survey: page tables of processes that hold no entry, because the mapped memory was given back."""
    unexplained: int
    """The rest: the kernel's own tables where it counts them, processes that are not seen, changes while reading.
    Negative where processes ended in the meantime, or by PUD pages."""

    @property
    def explained(self) -> float:
        """The part of `PageTables` that is explained, 1.0 for all; topmost tables not counted."""
        return 1 - max(0, self.unexplained) / self.page_tables if self.page_tables else 1.0


class Unreadable(NamedTuple):
    """Processes whose mappings could not be read, by user."""

    uid: int
    processes: int
    vmpte: int


class Survey(NamedTuple):
    """All of it, the most expensive object first."""

    usages: tuple[ObjectUsage, ...]
    totals: Totals
    unreadable: tuple[Unreadable, ...]
    nested: int
    """Processes in PID namespaces below ours (containers)."""
    exact: bool


class _Sum:
    """The sums of one owner over all processes, in bytes."""

    def __init__(self) -> None:
        self.lower = self.likely = self.upper = 0.0
        self.private = self.sharers_upper = 0.0
        self.pmd = self.pud = self.sharers_pud = 0.0
        self.size = 0
        self.sharers: set[int] = set()
        self.by_process: dict[int, int] = {}
        self.spans: set[tuple[int, int, int]] = set()
        """The parts for which sharers have entries, or may have: start and end in the object, and leaf."""
        self.units: dict[tuple[int, bool], int] = {}
        """hugetlb: by offset and right to write, the processes that map that GiB so that its PMD page is shared."""
        self.trees: dict[bool, int] = {}
        """msharefs: by right to write, bytes of the region's own tables."""

    @property
    def counted_twice(self) -> int:
        """Never more than exists: without a walk, not every mapped GiB has a table."""
        return min(PAGE * sum(count - 1 for count in self.units.values()), round(self.likely))

    @property
    def own(self) -> int:
        return sum(self.trees.values())

    @property
    def once(self) -> int:
        """PTE and PMD pages of everything that sharers map, but no more than their present tables."""
        small = ((start, end) for start, end, leaf in self.spans if leaf == PAGE)
        any_leaf = ((start, end) for start, end, leaf in self.spans if leaf <= PMD)
        return min(PAGE * (blocks(small, PMD) + blocks(any_leaf, PUD)), round(self.sharers_upper))

    def add(self, pid: int, charged: Charge, need: Need) -> None:
        self.lower += charged.lower
        self.likely += charged.likely
        self.upper += charged.upper
        self.by_process[pid] = round(charged.likely)
        _, pmd, pud = need.touched
        self.pmd += min(PAGE * pmd, charged.upper)
        self.pud += min(PAGE * pud, charged.upper)
        if pid in self.sharers:
            self.sharers_upper += charged.upper
            self.sharers_pud += min(PAGE * pud, charged.upper)
        else:
            self.private += charged.likely


def survey(snapshot: Snapshot) -> Survey:
    """Return who pays for page tables. Cost: linear in the mappings."""
    sums: dict[int, _Sum] = {}
    read = unread = empty = 0
    unreadable: dict[int, list[int]] = {}
    for process in snapshot.processes:
        if process.areas is None:
            unread += process.vmpte
            unreadable.setdefault(process.uid, []).append(process.vmpte)
        else:
            read += process.vmpte
            empty += _add(process, process.areas, snapshot.objects, sums)
    usages = [
        _usage(None if owner == PRIVATE else snapshot.objects[owner], each, snapshot.exact)
        for owner, each in sums.items()
    ]
    usages.sort(key=lambda usage: (-usage.now.likely, -usage.now.upper, -usage.processes))
    twice = sum(each.counted_twice for each in sums.values())
    regions = sum(each.own for each in sums.values())
    page_tables = snapshot.system.memory.get("PageTables", 0)
    return Survey(
        tuple(usages),
        Totals(
            page_tables,
            read,
            unread,
            twice,
            regions,
            PAGE * len(snapshot.processes),
            round(sum(each.pud for each in sums.values())),
            empty,
            page_tables - read - unread + twice - regions,
        ),
        tuple(Unreadable(uid, len(each), sum(each)) for uid, each in sorted(unreadable.items())),
        sum(process.namespaces > 0 for process in snapshot.processes),
        snapshot.exact,
    )


def _add(process: Process, areas: tuple[Area, ...], objects: tuple[Object, ...], sums: dict[int, _Sum]) -> int:
    """Add one process's page tables to its objects' sums. Return the bytes of them that hold no entry, 0 if they were
    not walked."""
    for area in areas:
        total = sums.get(area.object)
        if total is None:
            total = sums[area.object] = _Sum()
        if area.shared:
            total.sharers.add(process.pid)
        total.by_process.setdefault(process.pid, 0)
        length = area.end - area.start
        total.size = total.size + length if area.object == PRIVATE else max(total.size, area.offset + length)
    filled = process.filled
    if filled is None:
        filled = tuple(Filled(area.start, area.end, index, PAGE) for index, area in enumerate(areas))
    pieces = []
    linked = set()
    units: set[tuple[int, int, bool]] = set()
    for start, end, index, leaf_there in filled:
        area, leaf = areas[index], leaf_there
        thing = objects[area.object] if area.object != PRIVATE else None
        if thing is not None and thing.kind == "msharefs":
            linked.add(index)
            continue
        if thing is not None and thing.page != PAGE:
            leaf = thing.page
            if leaf == PMD and area.shared:
                units.update(_units(area, start, end))
        if thing is not None and area.shared:
            offset = area.offset + start - area.start
            sums[area.object].spans.add((offset, offset + end - start, leaf))
        pieces.append(Piece(start, end, area.object, leaf))
    for owner, unit, writable in units:
        counts = sums[owner].units
        counts[unit, writable] = counts.get((unit, writable), 0) + 1
    if linked:
        _note_trees(filled, areas, linked, sums)
        pieces += [Piece(areas[index].start, areas[index].end, areas[index].object, PUD) for index in linked]
        pieces.sort()
    need, pages = needs(pieces)
    there = process.vmpte if process.filled is None else min(process.vmpte, pages * PAGE)
    for owner, charged in charge(need, pages, there).items():
        sums[owner].add(process.pid, charged, need[owner])
    return process.vmpte - there


def _units(area: Area, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield each whole GiB of `area` in which `start` to `end` has entries: object, offset, right to write. The kernel
    shares the PMD page between mappings with the same rights that have the same GiB of the file at a multiple of 1
    GiB."""
    first = max(area.start + -area.start % PUD, start & -PUD)
    for unit in range(first, min(area.end & -PUD, end), PUD):
        yield area.object, area.offset + unit - area.start, area.writable


def _note_trees(filled: tuple[Filled, ...], areas: tuple[Area, ...], linked: set[int], sums: dict[int, _Sum]) -> None:
    """Keep the bytes of the region's own tables: its PTE and PMD pages, one set for readers, one for writers."""
    for index in linked:
        area = areas[index]
        spans = [Piece(each.start, each.end, 0, PAGE) for each in filled if each.area == index]
        pte, pmd, _ = needs(spans)[0][0].touched
        sums[area.object].pmd += PAGE * pmd  # with larger leaves, a process would have its own
        trees = sums[area.object].trees
        trees[area.writable] = max(trees.get(area.writable, 0), PAGE * (pte + pmd))


def _usage(thing: Object | None, total: _Sum, exact: bool) -> ObjectUsage:
    twice, own = total.counted_twice, total.own
    likely = total.likely - twice
    now = Bytes(round(max(0.0, total.lower - twice)), round(likely) + own, round(total.upper) + own)
    pmd_once = min(PAGE * len(total.units), round(likely))
    return ObjectUsage(
        thing,
        total.size,
        total.by_process,
        Bytes(now.likely, now.likely, now.likely) if exact else now,
        frozenset(total.sharers),
        round(total.private),
        own,
        pmd_once,
        max(0, round(total.pmd) - twice - pmd_once),
        round(total.pud),
        round(total.sharers_pud),
        own or total.once,
    )
