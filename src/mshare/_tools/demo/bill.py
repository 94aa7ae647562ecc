"""The costs, measured here and now, of every backend on this machine and of the standard library.
May depend on: backend, backends, measure, errors, units, geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..._core import backends
from ..._core.backend import find
from ..._core.errors import MshareError
from ..._core.geometry import PMD
from ..._core.units import GIB, format_size
from ...measure import Cost, Mechanism, Mshare, SharedMemory, Slope, measure, measure_slope
from ...measure.projection import SLOPE_BYTES

PROJECTED_BYTES = 300 * GIB
PROJECTED_PROCESSES = 1_500
"""The case that started this project: a database server's shared area and its clients."""

_SPARE_BYTES = GIB
"""Memory left alone on the machine while 2 GiB are taken for a slope."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    cost: Cost
    slope: Slope | None
    """The cost of one more GiB; None if there was no room to measure it."""
    projected_bytes: int | None
    """Arithmetic: the slope times 300 GiB times 1,500 processes."""


@dataclass(frozen=True, slots=True)
class Bill:
    """The table, and the reasons for missing rows and numbers."""

    size_bytes: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def _mechanisms(size_bytes: int) -> tuple[list[tuple[Mechanism, int]], list[str]]:
    """Return the mechanisms that can be measured, each with the bytes of memory it may take, and why others cannot."""
    mechanisms: list[tuple[Mechanism, int]] = []
    notes = []
    for backend in backends.ALL:
        available = backend.availability()
        if not available.usable:
            notes.append(f"{backend.name} is missing: {available.reason}. To have it: {available.remedy}")
        elif (room := backend.space().free_bytes) < backend.charge(size_bytes + PMD):
            notes.append(f"{backend.name} is missing: it has room for {format_size(room)} only")
        else:
            mechanisms.append((Mshare(backend.name), room))
    mechanisms.append((SharedMemory(), backends.BASELINE.space().free_bytes))
    return mechanisms, notes


def _owned(mechanism: Mechanism) -> int:
    """Return the bytes of page tables of the projection that belong to the region, so that no process pays for them."""
    if not isinstance(mechanism, Mshare):
        return 0
    cost = find(backends.ALL, mechanism.backend).costs(PROJECTED_BYTES, 1)
    return cost.all_total - cost.all_process


def draw_up(name: str, size_bytes: int, *, runs: int, slopes: bool, tell: Callable[[str], None]) -> Bill:
    """Measure regions of `size_bytes`, one after the other, under `name`.

    - `runs`: fresh processes per row, for the medians.
    - `slopes`: also measure what one more GiB costs, on 2 GiB of memory, for the projection.
    """
    mechanisms, notes = _mechanisms(size_bytes)
    lines = []
    for mechanism, room in mechanisms:
        try:
            cost = measure(mechanism, size_bytes, name=name, processes=_AT_ONCE, runs=runs, step=tell)
            slope = None
            if slopes and room >= SLOPE_BYTES + _SPARE_BYTES:
                slope = measure_slope(mechanism, name=name, step=tell)
            elif slopes:
                notes.append(
                    f"{mechanism.label}: no projection, measuring it takes {format_size(SLOPE_BYTES)} of memory"
                )
        except MshareError as error:  # somebody else took the memory in the meantime
            notes.append(f"{mechanism.label} is missing: {error}")
            continue
        projected = slope.projected_bytes(PROJECTED_BYTES, PROJECTED_PROCESSES) if slope else None
        if slope and slope.is_shared:
            notes.append(
                f"{mechanism.label}: the kernel shares the last level of whole GiB between processes: VmPTE counts it "
                "in each, the projection once"
            )
        owned = _owned(mechanism)
        if projected is not None and owned:
            projected += owned
            notes.append(
                f"{mechanism.label}: the tables belong to the region, so no process pays for them; the projection adds "
                f"them once, {format_size(owned)}"
            )
        lines.append(Line(cost, slope, projected))
    return Bill(size_bytes, tuple(lines), tuple(notes))
