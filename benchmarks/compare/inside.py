"""One trial, inside: builds its world, starts the daemon, measures one column, prints one marked line of JSON.

This program runs as the first process of a PID namespace (see `trial`). All processes that it leaves end with it.

May depend on: crowd, fates, figures, specs, world, frameworks, measure, units.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mshare._core.units import MIB
from mshare.measure.mechanisms import load

from ..frameworks import Served
from . import crowd, fates, figures, world
from .specs import MechanismSpec

COLUMNS = {
    "process": figures.process,
    "tables": figures.tables,
    "touch": figures.touch,
    "random": figures.random,
    "creator": fates.creator,
    "reader": fates.reader,
    "full": fates.full,
}
CROWD = "crowd"
OF_THE_BASELINE = ("process", "tables", CROWD)
"""The columns that have a meaning for a process that shares nothing."""
NAMES = (*COLUMNS, CROWD)
ANSWER = "benchmarks.compare answers: "
"""The answer's line begins with this mark. Libraries and their helpers also print on standard output, even at exit."""
_BESIDES = 128 * MIB
"""Room on /dev/shm for a mechanism's files besides the region."""


def trial(
    spec: MechanismSpec, column: str, *, size_bytes: int, runs: int, count: int, limit_s: float
) -> dict[str, Any]:
    """Measure `column` of `spec`, and return its values."""
    room = size_bytes * 11 // 10 * (runs if column == "touch" else 1) + _BESIDES  # torch frees some time after its end
    huge_bytes = world.free_huge_bytes() if spec.huge_pages else 0
    if column == "full":
        room = size_bytes // 2
        if spec.huge_pages:  # the pool fills up, and not the file system
            size_bytes = huge_bytes + 64 * MIB
    world.build(room, huge_bytes)
    world.choose_root(spec.label)
    mechanism = load(spec.spec)
    if isinstance(mechanism, Served):
        mechanism.serve(size_bytes)
    if column == CROWD:
        return crowd.crowd(mechanism, size_bytes, count, limit_s * 2 / 3)
    values = COLUMNS[column](mechanism, size_bytes, runs)
    if spec.hidden and "kept_bytes" in values:
        values["kept_bytes"] = None
    return values


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    request["spec"] = MechanismSpec(*request["spec"])
    try:
        answer: dict[str, Any] = {"values": trial(**request)}
    except Exception as error:  # every error of a mechanism is a result
        answer = {"failure": f"{type(error).__name__}: {error}"}
    print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)
