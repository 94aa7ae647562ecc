"""The future cost of page tables, by arithmetic: size and processes in, bytes out.

Pure. May depend on: table, errors, units, geometry, backend (the type).

Nothing here is measured. Each backend does its own arithmetic (`Backend.costs`), for x86-64 with four levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.errors import InvalidSizeError
from .._core.geometry import USER_END
from .._core.units import format_size
from .table import Table

if TYPE_CHECKING:
    from .._core.backend import Backend, Costs

MOST_PROCESSES = 1 << 22
"""As many as Linux has process ids (`PID_MAX_LIMIT`)."""


class Plan(NamedTuple):
    """Page-table costs of `processes` processes that map a region of `size` bytes."""

    size: int
    processes: int
    costs: tuple[tuple[Backend, Costs], ...]
    """The simplest backend first."""


def plan(size: int, processes: int, backends: Iterable[Backend]) -> Plan:
    """Return the costs on each of `backends`. Raises `InvalidSizeError` for less than 1 byte or process, or more bytes
    than a process can map."""
    if not 1 <= size <= USER_END // 2:
        raise InvalidSizeError(f"invalid size of {size} bytes", f"use 1 byte to {format_size(USER_END // 2)}")
    if not 1 <= processes <= MOST_PROCESSES:
        raise InvalidSizeError(f"invalid number of processes, {processes}", f"use 1 to {MOST_PROCESSES}")
    return Plan(size, processes, tuple((backend, backend.costs(size, processes)) for backend in backends))


def plan_table(found: Plan) -> Table:
    """Return one line per backend: last-level tables and tables of all levels, per process and in total."""
    headers = ("BACKEND", "LEAF", "LAST LEVEL\nPER PROCESS", "LAST LEVEL\nIN TOTAL", "ALL LEVELS\nPER PROCESS")
    rows = tuple(
        (
            backend.name,
            format_size(backend.capabilities.leaf_size),
            *(format_size(number) for number in (cost.leaf_process, cost.leaf_total, cost.all_process, cost.all_total)),
        )
        for backend, cost in found.costs
    )
    return Table((*headers, "ALL LEVELS\nIN TOTAL"), rows, right=frozenset({2, 3, 4, 5}))


def plan_notes(found: Plan) -> list[str]:
    """Return the sentences that belong under the table."""
    notes = ["Arithmetic, not a measurement: every process has touched the whole region."]
    notes += [f"{backend.name}: {cost.note}" for backend, cost in found.costs if cost.note]
    notes += [
        f"{backend.name} needs {cost.huge_pages} huge pages of 2 MiB for this region, its record included: "
        f"{_command(cost)} (add what others use)."
        for backend, cost in found.costs
        if cost.huge_pages
    ]
    return notes


def _command(cost: Costs) -> str:
    return f"sudo sysctl vm.nr_hugepages={cost.huge_pages}"


def plan_json(found: Plan) -> dict[str, Any]:
    """Return the plan as JSON has it: everything in bytes."""
    largest = max((cost for _, cost in found.costs), key=lambda cost: cost.huge_pages)
    return {
        "measured": False,
        "size": found.size,
        "processes": found.processes,
        "backends": [
            {
                "backend": backend.name,
                "leaf_size": backend.capabilities.leaf_size,
                "leaf_process": cost.leaf_process,
                "leaf_total": cost.leaf_total,
                "all_process": cost.all_process,
                "all_total": cost.all_total,
            }
            for backend, cost in found.costs
        ],
        "huge_pages": largest.huge_pages,
        "command": _command(largest),
    }
