"""What page tables will cost, by arithmetic: size and processes in, bytes out.

Pure. May depend on: table, errors, units, geometry, record.

Nothing here is measured. The numbers hold for processes that have touched the whole region, attached at its
1 GiB-aligned address, on x86-64 with four levels. A process's topmost table (one page) exists anyway: not counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .._core.errors import InvalidSizeError
from .._core.geometry import PAGE, PMD, PUD, USER_END, page_tables, round_up
from .._core.record import file_size
from .._core.units import format_size
from .table import Table

MOST_PROCESSES = 1 << 22
"""As many as Linux has process ids (`PID_MAX_LIMIT`)."""


class Cost(NamedTuple):
    """Page-table bytes of one backend."""

    backend: str
    leaf_size: int
    """Bytes one last-level entry maps."""
    leaf_process: int
    """Bytes of last-level tables one process maps the region with, as `VmPTE` counts them: those that hugetlb shares
    included; those of msharefs, which belong to the region, not."""
    leaf_total: int
    """Bytes of last-level tables of all processes together, shared ones counted once."""
    all_process: int
    """As `leaf_process`, tables of all levels."""
    all_total: int
    """As `leaf_total`, tables of all levels."""


class Plan(NamedTuple):
    """Page-table costs of `processes` processes that map a region of `size` bytes."""

    size: int
    processes: int
    costs: tuple[Cost, ...]
    huge_pages: int
    """2 MiB pages that `hugetlb` takes for the region and its record."""


def plan(size: int, processes: int) -> Plan:
    """Return the costs of each backend. Raises `InvalidSizeError` for less than 1 byte or process, or more bytes than a
    process can map."""
    if not 1 <= size <= USER_END // 2:
        raise InvalidSizeError(f"invalid size of {size} bytes", f"use 1 byte to {format_size(USER_END // 2)}")
    if not 1 <= processes <= MOST_PROCESSES:
        raise InvalidSizeError(f"invalid number of processes, {processes}", f"use 1 to {MOST_PROCESSES}")
    return Plan(
        size,
        processes,
        (
            _private("shm", size, PAGE, processes),
            _private("thp", size, PMD, processes),
            _hugetlb(size, processes),
            _msharefs(size, processes),
        ),
        file_size(size, PMD) // PMD,
    )


def _private(backend: str, size: int, leaf_size: int, processes: int) -> Cost:
    tables = page_tables(size, leaf_size=leaf_size)
    leaf_pages = tables.pte_pages
    if leaf_size == PMD:  # the tables that have a 2 MiB leaf in them
        leaf_pages += page_tables(size - size % PMD, leaf_size=PMD).pmd_pages
    leaf = leaf_pages * PAGE
    return Cost(backend, leaf_size, leaf, leaf * processes, tables.bytes, tables.bytes * processes)


def _hugetlb(size: int, processes: int) -> Cost:
    mapped = round_up(size, PMD)
    tables = page_tables(mapped, leaf_size=PMD)
    shared = mapped // PUD * PAGE  # one table per whole GiB, the same one in every process
    leaf = tables.pmd_pages * PAGE
    return Cost(
        "hugetlb",
        PMD,
        leaf,
        shared + (leaf - shared) * processes,
        tables.bytes,
        shared + (tables.bytes - shared) * processes,
    )


def _msharefs(size: int, processes: int) -> Cost:
    tables = page_tables(size, leaf_size=PAGE)
    own = tables.pud_pages * PAGE  # what points at the region's tables, one entry per GiB
    leaf = tables.pte_pages * PAGE
    return Cost("msharefs", PAGE, 0, leaf, own, tables.bytes - own + own * processes)


def plan_table(costs: Plan) -> Table:
    """Return one line per backend: last-level tables and tables of all levels, per process and in total."""
    headers = ("BACKEND", "LEAF", "LAST LEVEL\nPER PROCESS", "LAST LEVEL\nIN TOTAL", "ALL LEVELS\nPER PROCESS")
    rows = tuple(
        (
            cost.backend,
            format_size(cost.leaf_size),
            *(format_size(number) for number in (cost.leaf_process, cost.leaf_total, cost.all_process, cost.all_total)),
        )
        for cost in costs.costs
    )
    return Table((*headers, "ALL LEVELS\nIN TOTAL"), rows, right=frozenset({2, 3, 4, 5}))


def plan_notes(costs: Plan) -> list[str]:
    """Return the sentences that belong under the table."""
    return [
        "Arithmetic, not a measurement: every process has touched the whole region.",
        "hugetlb: the kernel shares the last-level tables of whole GiB between processes, so in total they count once.",
        "msharefs: all tables but the topmost belong to the region, so in total they count once (twice, if some attach "
        "read-only and others read-write).",
        f"hugetlb needs {costs.huge_pages} huge pages of 2 MiB for this region, its record included: "
        f"sudo sysctl vm.nr_hugepages={costs.huge_pages} (add what others use).",
    ]


def plan_json(costs: Plan) -> dict[str, Any]:
    """Return the plan as JSON has it: everything in bytes."""
    return {
        "measured": False,
        "size": costs.size,
        "processes": costs.processes,
        "backends": [cost._asdict() for cost in costs.costs],
        "huge_pages": costs.huge_pages,
        "command": f"sudo sysctl vm.nr_hugepages={costs.huge_pages}",
    }
