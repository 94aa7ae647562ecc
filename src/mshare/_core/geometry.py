"""Arithmetic of addresses and page tables on x86-64: numbers, no system call. Pure. May depend on: typed.

One page-table page is 4 KiB and holds 512 entries of 8 bytes. A PTE page maps 2 MiB, a PMD page 1 GiB, a PUD
page 512 GiB. Source: Intel SDM volume 3, section 4.5; the kernel counts a process's own table pages in
`VmPTE` (Documentation/filesystems/proc.rst).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .typed import NamedTuple

PAGE = 1 << 12
"""Bytes of the smallest page and of one page-table page."""
PMD = 1 << 21
"""Bytes one PMD entry maps: a huge page, or one PTE page's worth."""
PUD = 1 << 30
"""Bytes one PUD entry maps: the unit in which the kernel or our module can share tables."""
PGD = 1 << 39
"""Bytes one PUD page maps."""

WINDOW = (0x2000_0000_0000, 0x4000_0000_0000)
"""The addresses where `mshare` places regions: 32 TiB to 64 TiB of user space.

Linux puts programs at two thirds of the 128 TiB (0x55…), libraries and stacks under its top (0x7…, at most 16 TiB
of randomisation), small programs and Go heaps under 1 TiB, AddressSanitizer's shadow under 0x1000_8000_0000.
Nothing usual lies between, so one address is free in every process.
"""

USER_END = (1 << 47) - PAGE
"""First address above user space: `TASK_SIZE_MAX` with four-level tables, which leaves a guard page."""


class Span(NamedTuple):
    """A range of addresses or bytes: `start` included, `end` not."""

    start: int
    end: int

    def overlaps(self, other: Span) -> bool:
        return self.start < other.end and other.start < self.end


def round_up(value: int, unit: int) -> int:
    """Return the least multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit


def is_linked(map_unit: int) -> bool:
    """Tell from `map_unit`, the unit of a region's mappings, whether processes map the region by linking. Each process
    then has its own entries for whole GiB, which point at tables that belong to the region. Only linked mappings come
    in whole GiB."""
    return map_unit == PUD


class PageTables(NamedTuple):
    """Page-table pages, by level. Multiply by 4,096, or take `bytes`, for memory."""

    pte_pages: int
    pmd_pages: int
    pud_pages: int

    @property
    def bytes(self) -> int:
        """Bytes of all these table pages."""
        return PAGE * sum(self)


def page_tables(size_bytes: int, *, leaf_size: int, addr: int = WINDOW[0]) -> PageTables:
    """Return the table pages that map `size_bytes` at `addr`, every page touched, nothing shared.

    `leaf_size` is 4 KiB or 2 MiB: what one last-level entry maps. With 2 MiB leaves a tail shorter than 2 MiB is
    taken to be mapped with 4 KiB leaves (so it is in backend `thp`; `hugetlb` rounds its sizes up).
    """
    if size_bytes <= 0:
        return PageTables(0, 0, 0)
    end = addr + size_bytes

    def blocks(unit: int) -> int:
        return round_up(end, unit) // unit - addr // unit

    pte_pages = blocks(PMD) if leaf_size == PAGE else int(end % PMD != 0)
    return PageTables(pte_pages, blocks(PUD), blocks(PGD))


def attachment_span(size_bytes: int, addr: int) -> Span:
    """Return the addresses that a region reserves: whole 1 GiB units, so that its tables hold nothing else."""
    return Span(addr, addr + round_up(size_bytes, PUD))


def pick_address(seed: int, size_bytes: int, taken: Iterable[Span]) -> int | None:
    """Return a 1 GiB-aligned address in `WINDOW` where `size_bytes` fit clear of `taken`, or None if there is none.

    The search starts at a place that `seed` chooses, so that creators who cannot see each other's regions still
    rarely meet, and the same seed finds the same address on an empty machine.

    *Fact:* every 512 GiB that a region reaches into costs each process a PUD page. *Decision:* it crosses no more
    borders of 512 GiB than it must, unless there is no other room.
    """
    start, end = WINDOW
    length = round_up(max(size_bytes, 1), PUD)
    last = end - length
    if last < start:
        return None
    busy = sorted(taken)

    def within(addr: int) -> int:
        """Return the first address from here with the fewest borders."""
        return round_up(addr, PGD) if addr % PGD + length > round_up(length, PGD) else addr

    def first_free(addr: int, place: Callable[[int], int]) -> int | None:
        addr = place(addr)
        for span in busy:
            if span.end <= addr:
                continue
            if span.start >= addr + length:
                break
            addr = place(round_up(span.end, PUD))
        return addr if addr <= last else None

    seeded = start + seed % ((last - start) // PUD + 1) * PUD
    places: tuple[Callable[[int], int], ...] = (within, lambda addr: addr)
    found = (first_free(addr, place) for place in places for addr in (seeded, start))
    return next((addr for addr in found if addr is not None), None)
