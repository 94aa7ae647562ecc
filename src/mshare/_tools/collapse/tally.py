"""Blocks counted: by what is in memory of them, and by what became of them. Pure. May depend on: plan, geometry."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..._core.geometry import PAGE, PMD
from .plan import Refusal

if TYPE_CHECKING:
    from ..._core.linux.incore import Block

PAGES_PER_BLOCK = PMD // PAGE

REASONS = {
    errno.EAGAIN: "in use: its pages were locked or pinned",
    errno.EBUSY: "no room in the control group",
    errno.ENOMEM: "no free memory of 2 MiB in one piece",
    errno.EINVAL: "refused by the kernel: emptied, or forbidden for this mapping",
}
"""The kernel's meaning of each errno (madvise_collapse_errno in mm/khugepaged.c)."""


class Counts(NamedTuple):
    """The blocks of an object that can be reached, by what is in memory of them."""

    huge: int
    """2 MiB pages already."""
    warm: int
    """To be collapsed."""
    cold: int
    """Touched, but too little."""
    empty: int
    swapped: int
    """Partly in swap: collapsing would read the swapped pages."""
    missing_pages: int
    """Pages of 4 KiB that the warm blocks lack, and that collapsing adds."""


class Threshold(NamedTuple):
    """Which blocks are worth a 2 MiB page."""

    warm_percent: float = 50
    """A block of which so many percent of the pages are in memory."""
    spare_percent: float = 0
    """Every block that has been touched, if all of them that are not warm add at most so many percent to the object's
    memory. A server that has touched a few pages of a few blocks would else keep a page table for each, in every
    process."""

    def chosen(self, blocks: Collection[Block]) -> list[Block]:
        """Return the blocks that are to be collapsed. A block that is partly in swap is not."""
        touched = [each for each in blocks if not each.huge and not each.swapped and each.pages]
        warm = [each for each in touched if each.pages * 100 >= self.warm_percent * PAGES_PER_BLOCK]
        there = sum(each.pages for each in blocks) + missing(warm)
        added = missing(touched) - missing(warm)
        return touched if added * 100 <= self.spare_percent * there else warm


def missing(blocks: Collection[Block]) -> int:
    """Return the pages of 4 KiB that the blocks lack to be full."""
    return sum(PAGES_PER_BLOCK - each.pages for each in blocks)


def count(blocks: Collection[Block], threshold: Threshold, reachable: int) -> Counts:
    """Return the counts of blocks. `reachable` is the number of all blocks; those that are not among `blocks` are
    empty."""
    warm = threshold.chosen(blocks)
    huge = sum(each.huge for each in blocks)
    swapped = sum(each.swapped > 0 for each in blocks)
    cold = sum(each.pages > 0 for each in blocks if not each.swapped) - huge - len(warm)
    return Counts(huge, len(warm), cold, reachable - huge - len(warm) - cold - swapped, swapped, missing(warm))


@dataclass
class Done:
    """The work on one object, filled in while it happens."""

    collapsed: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    """The last errno of each block that was not collapsed, by number."""
    seconds: float = 0.0
    """In the kernel."""
    worst_s: float = 0.0
    """The block that took longest."""
    stopped: str = ""
    """Why the work ended early."""
    shortage: Refusal | None = None
    gone: bool = False
    """No process maps the object any more."""
    interrupted: bool = False
    """By Ctrl-C."""

    def settle(self, numbers: Collection[int], blocks: Collection[Block]) -> None:
        """Correct the numbers by what is there now, of the blocks that were to be collapsed.

        Kernels up to 6.12 answer EINVAL for a block that they did collapse, where the process had no page table for the
        block. Ctrl-C can come between a call and its count.
        """
        huge = {each.number for each in blocks if each.huge}.intersection(numbers)
        self.collapsed = len(huge)
        self.refused = {number: error for number, error in self.refused.items() if number not in huge}

    @property
    def reasons(self) -> dict[str, int]:
        """The number of blocks that were refused, by reason."""
        found: dict[str, int] = {}
        for number in self.refused.values():
            reason = REASONS.get(number, errno.errorcode.get(number, str(number)))
            found[reason] = found.get(reason, 0) + 1
        return found
