"""Whether there is memory for more 2 MiB pages. May depend on: plan, geometry, procfs, units,
linux, scan.

*Facts*, tried on Linux 6.18: a block needs 2 MiB in one piece before its old pages are given back, also in the control
group of the process, where the kernel answers EBUSY at the limit. Neither ends in the OOM killer. With too little free
memory the kernel reclaims, which can swap.
*Decision.* The work stops before that: at 1/64 of memory, as for regions. Where there is swap, only memory that is free
counts, and not what could be reclaimed.
"""

from __future__ import annotations

from contextlib import suppress

from ..._core.geometry import PMD
from ..._core.linux import proc
from ..._core.linux.files import read_bytes
from ..._core.linux.memory import cgroup_room
from ..._core.procfs import parse_buddyinfo, parse_pressure
from ..._core.units import format_size
from ..scan.case import SHMEM_ENABLED, chosen
from .plan import Refusal, denied

_ORDER = 9
"""2 MiB in one piece are 2 to the 9 pages."""
_RESERVE = 16
"""Free blocks of 2 MiB that a program in the background leaves to others."""


def free_blocks() -> int | None:
    """Return how many blocks of 2 MiB are free in one piece; None where /proc/buddyinfo cannot be read."""
    try:
        orders = parse_buddyinfo(read_bytes("/proc/buddyinfo"))
    except OSError:
        return None
    return sum(count << order - _ORDER for order, count in orders.items() if order >= _ORDER)


def pressure() -> float | None:
    """Return the percentage of the last 10 seconds in which some process waited for memory; None if the kernel does not
    tell (no CONFIG_PSI, or psi=0)."""
    with suppress(OSError):
        return parse_pressure(read_bytes("/proc/pressure/memory"))
    return None


def forbidden() -> Refusal | None:
    """Return the refusal if the administrator forbids 2 MiB pages of memory now."""
    with suppress(OSError):
        if chosen(read_bytes(SHMEM_ENABLED).decode()) == "deny":
            return denied()
    return None


def busy(pid: int, blocks: int, most_pressure: float) -> Refusal | None:
    """Return what a program in the background waits for before it makes `blocks` more 2 MiB pages: memory pressure, 2
    MiB pieces that the kernel need not make by moving pages, and what `shortage` says. None if nothing."""
    waited = pressure()
    if waited is not None and waited > most_pressure:
        return Refusal(f"processes waited for memory {waited:g} % of the time (PSI)", "work goes on when they do not")
    free = free_blocks()
    if free is not None and free < blocks + _RESERVE:
        return Refusal(
            f"{free} blocks of 2 MiB are free in one piece (/proc/buddyinfo)",
            "work goes on when there are more: echo 1 > /proc/sys/vm/compact_memory makes some",
        )
    return shortage(pid, blocks)


def shortage(pid: int, blocks: int) -> Refusal | None:
    """Return what is short for `blocks` more 2 MiB pages of process `pid`; None if nothing is."""
    fields = proc.memory_fields()
    swap = fields.get("SwapTotal", 0) > 0
    left = fields["MemFree" if swap else "MemAvailable"] - fields["MemTotal"] // 64
    if left < blocks * PMD:
        what = "free memory" if swap else "available memory"
        return Refusal(f"this machine has {format_size(max(0, left))} of {what} to spare", "free some, and run again")
    group = cgroup_room(pid)
    if group is not None and group.free_bytes < blocks * PMD:
        return Refusal(
            f"process {pid} has {format_size(group.free_bytes)} left ({group.limit})",
            "raise the limit, and run again (docker update --memory, or MemoryMax= of the service)",
        )
    return None
