"""The columns that are numbers: what one further process pays, first touch, random reads.

May depend on: actor, frameworks, measure.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from mshare.measure import Mechanism
from mshare.measure.cost import existing, middle, page_tables_growth, process_costs

from ..frameworks import Served
from .actor import actor

_NAME = "mshare-compare"
_PROCESSES = 8
"""Attached at once when `PageTables` is read, whose noise is divided by them."""


def process(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return `mshare.measure.ProcessCost` of fresh processes, medians."""
    with existing(mechanism, _NAME, size_bytes) as memory:
        return middle(process_costs(mechanism, memory.token, runs, cycles=5, in_a_row=1))._asdict()


def tables(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the growth of the machine's `PageTables` per process, of so many that have touched everything."""
    with existing(mechanism, _NAME, size_bytes) as memory:
        # New processes each time: those of Ray and vineyard keep their tables when they let go of an object.
        grown = [page_tables_growth(mechanism, memory.token, size_bytes, _PROCESSES) for _ in range(runs)]
    return {"page_tables_bytes": int(median(grown))}


def touch(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the time from nothing to memory that has been written once: creating, attaching, a write to each page."""
    times = []
    for number in range(1 if isinstance(mechanism, Served) else runs):  # a daemon keeps memory, touched, for the next
        with actor(mechanism) as one:
            times.append(one.do("fill", name=f"{_NAME}-{number}", size=size_bytes))
    return {"ns": int(median(times)), "bytes": size_bytes, "runs": len(times)}


def random(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the nanoseconds of a random read of 8 bytes in a process that has read everything before. Only one: it is
    the trial that is repeated (`Plan.random_rounds`), with memory of its own."""
    del runs
    with actor(mechanism) as creator, actor(mechanism) as reader:
        reader.do("attach", token=creator.make(_NAME, size_bytes))
        times = reader.do("random", rounds=64)
    return {"ns": median(times), "best_ns": min(times)}
