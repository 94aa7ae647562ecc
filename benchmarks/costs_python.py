"""The cost of a child of a Python process with numpy: further figures of group `fork`, in the format of `costs.c`.

This program runs in the guest that counts instructions, where each instruction takes one nanosecond of the clock.

May depend on: mshare, numpy.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import mshare

SIZE = (1 << 30) - mmap.PAGESIZE
TOUCHED = 16 << 20
CHILDREN, WARM_UP = 20, 5


def shared(mechanism: str) -> memoryview:
    """Return shared memory whose first 16 MiB have pages, which this process has touched."""
    if mechanism == "memfd":
        file = os.memfd_create("costs")
        os.ftruncate(file, SIZE)
        view = memoryview(mmap.mmap(file, SIZE))
    else:
        view = mshare.create_anonymous(SIZE, backend="msharefs", reserve=False).buf
    np.frombuffer(view, np.uint8)[:TOUCHED] = 1
    return view


def child(view: memoryview | None) -> int:
    """Fork a child that touches one byte of the view, if there is one. Return the instructions until the child ends."""
    start = time.perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        if view is not None:
            view[0] = 1
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a child ended with {status:#x}")
    return time.perf_counter_ns() - start


def main(mechanism: str) -> None:
    view = None if mechanism == "nothing" else shared(mechanism)
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    print(f"costs: a Python process with {mechanism}: {mappings} mappings", file=sys.stderr)
    for case, touched in (("exit", None), ("touch and exit", view)):
        if case == "exit" or touched is not None:
            costs = [child(touched) for _ in range(WARM_UP + CHILDREN)][WARM_UP:]
            print("fork", f"{case}, Python with numpy", mechanism, f"{statistics.mean(costs):.3f}", sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
