"""Shared mappings, object by object, and whether their blocks of 2 MiB are aligned. Pure.
May depend on: snapshot, survey, geometry.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ..._core.geometry import PMD
from .snapshot import Object, Snapshot
from .survey import ObjectUsage


class Mapping(NamedTuple):
    """One MAP_SHARED mapping of an object."""

    pid: int
    start: int
    end: int
    offset: int
    """Bytes from the object's start."""

    @property
    def aligned(self) -> bool:
        """Its blocks lie at multiples of 2 MiB in the object and in the process. Only there a 2 MiB leaf can be."""
        return (self.start - self.offset) % PMD == 0

    @property
    def blocks(self) -> range:
        """The numbers of the object's blocks that it covers as a whole."""
        return range(-(-self.offset // PMD), (self.offset + self.end - self.start) // PMD)


def mappings(snapshot: Snapshot) -> dict[Object, tuple[Mapping, ...]]:
    """Return the shared mappings of each object that cover a block or more. Cost: linear in all mappings."""
    found: dict[int, list[Mapping]] = {}
    for process in snapshot.processes:
        for area in process.areas or ():
            if area.shared and area.object >= 0:
                each = Mapping(process.pid, area.start, area.end, area.offset)
                if each.blocks:
                    found.setdefault(area.object, []).append(each)
    return {snapshot.objects[index]: tuple(those) for index, those in found.items()}


def unaligned_pids(those: Collection[Mapping]) -> frozenset[int]:
    """Return the processes that map an object where no 2 MiB leaf can be."""
    return frozenset(each.pid for each in those if not each.aligned)


def collapsed_bytes(usage: ObjectUsage, unaligned: Collection[int], part: float = 1.0) -> int:
    """Return about how many bytes of page tables an object has once that `part` of what is touched is 2 MiB pages.
    `unaligned` processes keep what they have."""
    what_if = usage.what_if()
    if what_if is None:
        return usage.now.likely
    then = what_if.leaves_2m / usage.processes
    return round(
        sum(
            now if pid in unaligned else min(now, part * then + (1 - part) * now)
            for pid, now in usage.by_process.items()
        )
    )
