"""From measured figures to projected ones: the only module that computes, and says so. May depend on: child, cost,
mechanisms, geometry.

A process pays page tables in whole pages of 4 KiB. A table of 2 MiB leaves covers 1 GiB, and the tables above cover 512
GiB, so a region of half a GiB and one of 1 GiB cost the same. The bytes of a small region, multiplied, would be far too
much for `thp` and `hugetlb`. This module therefore measures the *second* GiB of a 2 GiB region, which costs as much as
every further GiB, and multiplies that figure.
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
    """The cost of one more GiB in one more process."""

    vmpte_bytes_per_gib: int
    """Growth of the median process's `VmPTE` by the second GiB."""
    page_tables_bytes_per_gib: int
    """Growth of `PageTables` by the second GiB, divided by the number of processes: the cost for the machine."""
    processes: int
    is_shared: bool
    """The mechanism shares these tables between processes (see `Mechanism.shares_tables`): `VmPTE` counts them in each.

    The value does not come from `PageTables`, where changes of other programs would sometimes decide it."""

    def projected_bytes(self, size_bytes: int, processes: int) -> int:
        """Return the page-table bytes of `processes` processes that have touched `size_bytes` each.

        The figure is arithmetic, not a measurement: the slope times GiB times processes. Shared tables count once.
        """
        payers = 1 if self.is_shared else processes
        return self.vmpte_bytes_per_gib * size_bytes * payers // PUD


def measure_slope(mechanism: Mechanism, *, name: str, processes: int = 4, step: Step = lambda _: None) -> Slope:
    """Measure the cost of the second GiB of a 2 GiB region in each of `processes` processes. Takes 2 GiB of memory."""
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
