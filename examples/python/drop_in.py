"""A program of `multiprocessing.shared_memory` that a kill cannot hurt, because of its first lines.

Run: python examples/python/drop_in.py. docs/shared-memory.md explains the lines.
"""

# ruff: noqa: E402

import mshare.shared_memory

mshare.shared_memory.install()

import os
import signal
from multiprocessing import get_context
from multiprocessing.managers import SharedMemoryManager
from multiprocessing.shared_memory import ShareableList, SharedMemory

import numpy

COUNT = 1 << 20


def add_up(name: str, results: ShareableList, number: int) -> None:
    """Attach the segment by its name, and put the sum of a quarter of it into the list."""
    segment = SharedMemory(name)
    numbers = numpy.ndarray(COUNT, "int64", segment.buf)
    results[number] = int(numbers[number::4].sum())
    segment.close()


def die(name: str) -> None:
    """Attach the segment, and be killed."""
    segment = SharedMemory(name)
    assert segment.buf[8] == 1
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    with SharedMemoryManager() as manager:
        segment = manager.SharedMemory(COUNT * 8)
        results = manager.ShareableList([0] * 4)
        numpy.ndarray(COUNT, "int64", segment.buf)[:] = range(COUNT)
        for number, method in enumerate(("fork", "spawn", "fork", "spawn")):
            context = get_context(method)
            killed = context.Process(target=die, args=(segment.name,))
            worker = context.Process(target=add_up, args=(segment.name, results, number))
            for process in (killed, worker):
                process.start()
                process.join()
            print(f"{method}: one worker ended with {killed.exitcode}, the other added up {results[number]:,}")
        (region,) = (each for each in mshare.regions() if each.name == segment.name)
        print(
            f"sum {sum(results):,}, on {region.backend}: {region.page_table_bytes >> 10} KiB of page tables per process"
        )
        segment.close()
        results.shm.close()


if __name__ == "__main__":
    main()
