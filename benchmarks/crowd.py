"""Many living processes with many mappings each, for programs that look at processes. May depend on: nothing.

As a program, this module is the parent of such processes. The processes are forks of a few fresh interpreters, so that
not all have the same addresses. Each process has its own mappings.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PARENTS = 10


@contextmanager
def crowd(processes: int, mappings: int) -> Iterator[None]:
    """Keep so many processes alive, with at least so many mappings each, for the time of a `with` block."""
    with ExitStack() as stack:
        parents = []
        for number in range(PARENTS):
            count = processes // PARENTS + (number < processes % PARENTS)
            command = [sys.executable, "-S", "-I", __file__, str(count), str(mappings)]
            parents.append(
                stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            )
        for parent in parents:
            assert parent.stdout is not None
            if parent.stdout.readline() != b"ready\n":
                raise RuntimeError("the processes could not be started: see above")
        yield  # the end of the block closes standard input, which ends the processes


def _main(processes: int, mappings: int) -> None:
    reader, writer = os.pipe()
    ready, say_ready = os.pipe()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            there = Path("/proc/self/maps").read_bytes().count(b"\n")
            fd = os.memfd_create("crowd")
            os.ftruncate(fd, mmap.PAGESIZE)
            kept = []
            for number in range(max(0, mappings - there)):  # shared and private in turn, so that the kernel merges none
                kept.append(mmap.mmap(fd, mmap.PAGESIZE) if number % 2 else mmap.mmap(-1, 4 * mmap.PAGESIZE))
            os.write(say_ready, b"x")
            os.read(reader, 1)
            os._exit(0)
        children.append(pid)
    done = 0
    while done < processes:
        done += len(os.read(ready, processes))
    print("ready", flush=True)
    os.close(reader)
    sys.stdin.read()
    os.close(writer)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
