"""The columns that are numbers: what one further process pays, first touch, random reads."""

from __future__ import annotations

from statistics import median
from typing import Any

from mshare.measure import Peer
from mshare.measure.cost import existing, middle, page_tables_growth, process_costs

from .actor import actor

_NAME = "mshare-compare"


def process(peer: Peer, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return `mshare.measure.ProcessCost` of fresh processes, medians."""
    with existing(peer, _NAME, size_bytes) as memory:
        return middle(process_costs(peer, memory.token, runs, cycles=5, in_a_row=1))._asdict()


def tables(peer: Peer, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the growth of the machine's `PageTables` per process, of 8 that have touched everything."""
    with existing(peer, _NAME, size_bytes) as memory:
        return {"page_tables_bytes": page_tables_growth(peer, memory.token, size_bytes, 8, rounds=runs)}


def touch(peer: Peer, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the time from nothing to memory that has been written once: creating, attaching, a write to each page."""
    times = []
    for _ in range(runs):
        with existing(peer, _NAME, size_bytes) as memory:
            times.append(memory.create_ns + memory.first_touch_ns)
    return {"ns": int(median(times)), "bytes": size_bytes}


def random(peer: Peer, size_bytes: int, runs: int) -> dict[str, Any]:
    """Return the nanoseconds of a random read of 8 bytes in a process that has read everything before."""
    rounds: list[float] = []
    with existing(peer, _NAME, size_bytes) as memory:
        for _ in range(runs):
            with actor(peer) as reader:
                reader.do("attach", token=memory.token)
                rounds += reader.do("random", rounds=64)
    return {"ns": median(rounds), "best_ns": min(rounds), "rounds": len(rounds)}
