"""A program that works on its shared memory all the time: the subject of benchmarks.disturb. May depend on: nothing.

As a program: `disturbed.py SIZE WORKERS DIRECTORY`. The processes write to random pages, first to each page once. The
time after each operation, which is 64 such writes, goes into one file per process in the directory: 8 bytes each, in ns
of CLOCK_MONOTONIC, the start first. Another file has samples, taken at the start, after each pass over the pages, and
after each operation of more than 1 ms: the time, the processor time and the time in the run queue, in ns. What remains
of the time is that in which the kernel has blocked the process. A process that has touched all pages prints "touched".
The program ends when its standard input ends.
"""

from __future__ import annotations

import gc
import mmap
import os
import random
import sys
from array import array
from pathlib import Path
from time import perf_counter_ns, thread_time_ns

NAME = "mshare-disturb"
WRITES = 64
"""To random pages, in one operation."""
PAGE = 4096
SLOW_NS = 1_000_000
GO, STOP = 0, 1
"""Bytes of the page by which the processes are told to begin and to end."""


def _sample() -> tuple[int, int, int]:
    with Path("/proc/thread-self/schedstat").open() as stream:
        return perf_counter_ns(), thread_time_ns(), int(stream.read().split()[1])


def _work(memory: mmap.mmap, told: mmap.mmap, number: int, path: Path) -> None:
    gc.disable()
    pages = [page * PAGE for page in range(len(memory) // PAGE)]
    random.Random(number).shuffle(pages)
    batches = [pages[at : at + WRITES] for at in range(0, len(pages), WRITES)]
    told[2 + number] = 1
    while not told[GO]:
        os.sched_yield()
    samples, said = array("Q", _sample()), False
    last = samples[0]
    times = array("Q", [last])
    while not told[STOP]:
        for batch in batches:
            for at in batch:
                memory[at] = 1
            now = perf_counter_ns()
            times.append(now)
            if now - last > SLOW_NS:
                samples.extend(_sample())
                last = perf_counter_ns()
                times[-1] = last
            else:
                last = now
            if told[STOP]:
                break
        samples.extend(_sample())
        if not said:
            os.write(1, b"touched\n")
            said = True
    path.write_bytes(times.tobytes())
    path.with_suffix(".samples").write_bytes(samples.tobytes())


def main(size: int, workers: int, place: Path) -> None:
    """Run until standard input ends. `size` in bytes."""
    Path("/proc/self/comm").write_text(NAME)
    memory, told = mmap.mmap(-1, size), mmap.mmap(-1, PAGE)
    for number in range(workers):
        if os.fork() == 0:
            _work(memory, told, number, place / str(number))
            os._exit(0)
    while not all(told[2 : 2 + workers]):
        os.sched_yield()
    told[GO] = 1
    sys.stdin.read()
    told[STOP] = 1
    for _ in range(workers):
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
