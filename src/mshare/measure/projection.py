"""From what was measured to what would be: the only place with arithmetic in it, and it says so. May depend on: child,
cost, mechanisms, geometry.

Facts: a process pays page tables in whole pages of 4 KiB; a table of 2 MiB leaves covers 1 GiB, and the tables above
cover 512 GiB, so a region of half a GiB and one of 1 GiB cost the same with them. Consequence: bytes measured for a
small region, multiplied, would be far too much for `thp` and `hugetlb`. Decision: measure the *second* GiB of a 2 GiB
region, which costs what every further GiB costs, and multiply that.
"""

from __future__ import annotations

from typing import NamedTuple

from .._core.geometry import PUD
from .child import ask_all
from .cost import Step, existing, page_tables_bytes, probes
from .mechanisms import Mechanism

SLOPE_BYTES = 2 * PUD
"""Bytes of memory that measuring a slope takes."""


class Slope(NamedTuple):
    """What one more GiB costs one more process."""

    vmpte_bytes_per_gib: int
    """Growth of the median process's `VmPTE` by the second GiB."""
    page_tables_bytes_per_gib: int
    """Growth of `PageTables` by the second GiB, by the number of processes: what the machine pays."""
    processes: int
    is_shared: bool
    """The mechanism shares these tables between processes (see `Mechanism.shares_tables`): `VmPTE` counts them in each.

    Not told from `PageTables`: other programs' changes would decide it now and then."""

    def projected_bytes(self, size_bytes: int, processes: int) -> int:
        """Return the page-table bytes of `processes` processes that have touched `size_bytes` each.

        Arithmetic, not measurement: the slope times GiB times processes; tables that are shared are counted once.
        """
        payers = 1 if self.is_shared else processes
        return self.vmpte_bytes_per_gib * size_bytes * payers // PUD


def measure_slope(mechanism: Mechanism, *, name: str, processes: int = 4, step: Step = lambda _: None) -> Slope:
    """Measure what the second GiB of a 2 GiB region costs each of `processes` processes. Takes 2 GiB of memory."""
    step(f"{mechanism.label}: what one more GiB costs")
    with existing(mechanism, name, SLOPE_BYTES) as memory, probes(mechanism, memory.token, processes) as group:
        ask_all(group, do="attach")
        first = ask_all(group, do="touch", start=0, end=PUD)
        before = page_tables_bytes()
        second = ask_all(group, do="touch", start=PUD, end=2 * PUD)
        growth = page_tables_bytes() - before
        ask_all(group, do="detach")
    grown = sorted(b - a for a, b in zip(first, second, strict=True))
    return Slope(grown[len(grown) // 2], growth // processes, processes, mechanism.shares_tables)
