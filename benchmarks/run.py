"""Measures every mechanism at every size, in a fixed order and with time limits.

May depend on: machine, mechanisms, pool, backends, linux, measure, errors, units, geometry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mshare._core import backends
from mshare._core.errors import MshareError
from mshare._core.geometry import PMD
from mshare._core.linux.memory import memory_room
from mshare._core.units import GIB, MIB, format_size
from mshare.measure import Cost, Nothing, measure

from . import machine, mechanisms, pool


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a run. Sizes are in bytes."""

    sizes: tuple[int, ...]
    runs: int
    processes: int
    creates: int
    rounds: int


FULL = Plan((64 * MIB, 256 * MIB, GIB, 2 * GIB, 4 * GIB), runs=3, processes=4, creates=3, rounds=3)
QUICK = Plan((64 * MIB, 256 * MIB), runs=1, processes=2, creates=1, rounds=1)


@dataclass(frozen=True, slots=True)
class Results:
    """All costs of one run, and notes about missing ones."""

    machine: dict[str, str | int | float]
    plan: Plan
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything, bytes and nanoseconds exact."""
        document = asdict(self)
        for cost, plain in zip(self.costs, document["costs"], strict=True):
            plain["process"] = cost.process._asdict()
        return document


def _usable(lent_bytes: int) -> tuple[list[str], list[str]]:
    names, notes = [], []
    for backend in backends.ALL:
        available = backend.availability()
        if available.usable and (backend.name != "hugetlb" or lent_bytes):
            names.append(backend.name)
        elif backend.name != "hugetlb":
            notes.append(f"{backend.name} is missing: {available.reason}")
    return names, notes


def measure_all(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Measure every mechanism at every size that fits, and return all of it. `tell` is called before each step."""
    facts = machine.facts()
    costs: list[Cost] = []
    notes: list[str] = []
    with pool.lent(_largest(plan.sizes)) as (lent_bytes, problem):
        names, unusable = _usable(lent_bytes)
        chosen, missing = mechanisms.all_mechanisms(names)
        notes += [*filter(None, [problem]), *unusable, *missing]
        for size in plan.sizes:
            room = memory_room().free_bytes
            if size + PMD > min(room, backends.ALL[-1].space().free_bytes):
                notes.append(f"{format_size(size)} is missing: {format_size(room)} of memory is free")
                continue
            for mechanism in chosen:
                if isinstance(mechanism, Nothing) and size != plan.sizes[0]:
                    continue
                try:
                    costs.append(
                        measure(
                            mechanism,
                            size,
                            name=f"mshare-bench-{os.getpid()}",
                            processes=plan.processes,
                            runs=plan.runs,
                            creates=plan.creates,
                            rounds=plan.rounds,
                            step=lambda step, size=size: tell(f"{format_size(size)}: {step}"),  # type: ignore[misc]
                        )
                    )
                except MshareError as error:  # another process took the memory in the meantime
                    notes.append(f"{format_size(size)} with {mechanism.label} is missing: {error}")
    return Results(facts, plan, tuple(costs), tuple(notes))


def _largest(sizes: Sequence[int]) -> int:
    """Return the bytes of the largest region and its record's huge page."""
    return max(sizes) + PMD
