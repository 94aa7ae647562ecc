"""Computes the page-table pages of one process that each mapping needs. Pure arithmetic. May depend on: geometry.

A page-table page serves a block of addresses, and several mappings may lie in one block. The cost of a mapping is
therefore known in three ways, which bound each other: *exclusive* <= *share* <= *touched* (`Need`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..._core.geometry import PAGE, PGD, PMD, PUD

LEVELS = (PMD, PUD, PGD)
"""Bytes of addresses that one page-table page of each level serves: PTE pages, PMD pages, PUD pages."""

_SHIFTS = tuple(level.bit_length() - 1 for level in LEVELS)


class Piece(NamedTuple):
    """A range of addresses that `owner` has entries for, or may have."""

    start: int
    end: int
    """Bytes, not included; above `start`."""
    owner: int
    leaf: int
    """Bytes that one entry maps: 4 KiB, 2 MiB, 1 GiB; or 512 GiB for tables that are not the process's own below the
    topmost entry (msharefs)."""


class Need(NamedTuple):
    """The page-table pages of one process that one owner needs. In pages of 4 KiB."""

    exclusive: int
    """Pages that serve no other owner, and would be freed if only this owner went."""
    share: float
    """`exclusive`, and of each page that serves k owners one k-th. The shares of all owners add up to all pages."""
    touched: tuple[int, int, int]
    """All pages that serve it, by level: PTE, PMD, PUD pages."""


def needs(pieces: Iterable[Piece]) -> tuple[dict[int, Need], int]:
    """Return each owner's needs, and the number of pages that all owners need together.

    `pieces` are those of one process in order of their addresses, without overlap. Cost: linear in their number.
    """
    pieces = list(pieces)
    exclusive: dict[int, int] = {}
    share: dict[int, float] = {}
    touched: dict[int, list[int]] = {piece.owner: [0, 0, 0] for piece in pieces}
    total = 0

    def close(holders: set[int]) -> None:
        """Account for a block that no other piece can touch."""
        if len(holders) == 1:
            (alone,) = holders
            exclusive[alone] = exclusive.get(alone, 0) + 1
        for holder in holders:
            share[holder] = share.get(holder, 0.0) + 1 / len(holders)

    for level, shift in enumerate(_SHIFTS):
        open_block = -1
        holders: set[int] = set()
        for start, end, owner, leaf in pieces:
            if leaf >= LEVELS[level]:
                continue
            first, last = start >> shift, (end - 1) >> shift
            if first == open_block:
                if owner not in holders:
                    holders.add(owner)
                    touched[owner][level] += 1
                if last == first:
                    continue
                first += 1
            close(holders)
            count = last - first + 1
            total += count
            touched[owner][level] += count
            exclusive[owner] = exclusive.get(owner, 0) + count - 1
            share[owner] = share.get(owner, 0.0) + count - 1
            open_block, holders = last, {owner}
        close(holders)
    return {
        owner: Need(exclusive.get(owner, 0), share.get(owner, 0.0), (levels[0], levels[1], levels[2]))
        for owner, levels in touched.items()
    }, total


def blocks(spans: Iterable[tuple[int, int]], level: int) -> int:
    """Return the number of blocks of `level` bytes that the spans touch together. Spans may overlap, in any order."""
    count, after = 0, 0
    for start, end in sorted(spans):
        first, last = max(after, start // level), (end - 1) // level
        if last >= first:
            count += last - first + 1
            after = last + 1
    return count


class Charge(NamedTuple):
    """The cost of one owner for a process, in bytes of page-table pages."""

    lower: float
    """The least number of bytes that are freed if only this owner goes."""
    likely: float
    """The even split: the charges of all owners of a process add up to its `VmPTE`."""
    upper: float
    """All page-table pages that could hold an entry of the owner."""


def charge(need: dict[int, Need], total_pages: int, vmpte_bytes: int) -> dict[int, Charge]:
    """Return what each owner costs, given the bytes of page tables the process really has (`VmPTE`).

    `need` and `total_pages` are what `needs` returned for the process's mappings. *Facts:* a page-table page exists
    only in a block that some mapping touches, so the process has at most `total_pages`; it has `vmpte_bytes`.
    *Consequence:* what is there and not accounted for by the blocks of all others belongs to this owner: its lower
    bound.
    """
    there = vmpte_bytes / PAGE
    missing = max(0.0, total_pages - there)
    floors = {owner: max(0.0, each.exclusive - missing) for owner, each in need.items()}
    floor_sum, share_sum = sum(floors.values()), sum(each.share for each in need.values())
    room = share_sum - floor_sum
    part = min(1.0, max(0.0, (there - floor_sum) / room)) if room > 0 else 0.0
    return {
        owner: Charge(
            PAGE * floors[owner],
            PAGE * (floors[owner] + part * (each.share - floors[owner])),
            PAGE * max(floors[owner], min(float(sum(each.touched)), there)),
        )
        for owner, each in need.items()
    }
