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


def is_warm(block: Block, percent: float) -> bool:
    """Tell whether a block is worth a 2 MiB page: `percent` of its pages or more are in memory."""
    return not block.huge and not block.swapped and block.pages > 0 and block.pages * 100 >= percent * PAGES_PER_BLOCK


def count(blocks: Collection[Block], percent: float, reachable: int) -> Counts:
    """Return the counts of blocks, where `percent` of the pages make a block warm. `reachable` is the number of all
    blocks; those that are not among `blocks` are empty."""
    warm = [each for each in blocks if is_warm(each, percent)]
    huge = sum(each.huge for each in blocks)
    swapped = sum(each.swapped > 0 for each in blocks)
    cold = sum(each.pages > 0 for each in blocks if not each.swapped) - huge - len(warm)
    missing = sum(PAGES_PER_BLOCK - each.pages for each in warm)
    return Counts(huge, len(warm), cold, reachable - huge - len(warm) - cold - swapped, swapped, missing)


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
