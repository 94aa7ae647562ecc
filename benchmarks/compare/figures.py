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
"""So many processes are attached when `PageTables` is read. The noise of `PageTables` is divided by their number."""


def process(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return `mshare.measure.ProcessCost` of fresh processes: medians."""
    with existing(mechanism, _NAME, size_bytes) as memory:
        return middle(process_costs(mechanism, memory.token, runs, cycles=5, in_a_row=1))._asdict()


def tables(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the growth of the machine's `PageTables` per process that has touched everything."""
    with existing(mechanism, _NAME, size_bytes) as memory:
        # Each run has new processes, because those of Ray and vineyard keep their tables when they release an object.
        grown = [page_tables_growth(mechanism, memory.token, size_bytes, _PROCESSES) for _ in range(runs)]
    return {"page_tables_bytes": int(median(grown))}


def touch(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the time of creating a region, attaching the region, and writing to each page once."""
    times = []
    for number in range(1 if isinstance(mechanism, Served) else runs):  # a daemon keeps touched memory for the next
        with actor(mechanism) as one:
            times.append(one.do("fill", name=f"{_NAME}-{number}", size=size_bytes))
    return {"ns": int(median(times)), "bytes": size_bytes, "runs": len(times)}


def random(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the nanoseconds of a random read of 8 bytes in one process that has read everything before. Further rounds
    are trials of their own (`Plan.random_rounds`), with new memory."""
    del runs
    with actor(mechanism) as creator, actor(mechanism) as reader:
        reader.do("attach", token=creator.make(_NAME, size_bytes))
        times = reader.do("random", rounds=64)
    return {"ns": median(times), "best_ns": min(times)}
