"""Processes that all map one piece of memory and have touched every page of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import mmap, os, sys
name, size, count = bytes.fromhex(sys.argv[1]).decode(), int(sys.argv[2]), int(sys.argv[3])
fd = os.open(name, os.O_RDWR | os.O_CREAT) if name.startswith("/") else os.memfd_create(name)
os.truncate(fd, size)
for offset in range(0, size, 1 << 20):
    os.pwrite(fd, b"x" * (1 << 20), offset)
ready, done = os.pipe()
pids = []
for _ in range(count):
    pid = os.fork()
    if pid == 0:
        memory = mmap.mmap(fd, size)
        for offset in range(0, size, 4096):
            memory[offset]
        os.write(done, b".")
        os.read(0, 1)
        os._exit(0)
    pids.append(pid)
while count:
    count -= len(os.read(ready, count))
print(*pids, flush=True)
os.read(0, 1)
for pid in pids:
    os.waitpid(pid, 0)
"""


@contextmanager
def crowd(name: str, size: int, count: int) -> Iterator[list[int]]:
    """Start `count` processes that map `size` bytes, of a memfd called `name` or of a file; give their pids. `size`
    is a multiple of 1 MiB."""
    command = [sys.executable, "-c", _PROGRAM, name.encode().hex(), str(size), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == count
        try:
            yield pids
        finally:
            process.stdin.close()
            assert process.wait(60) == 0


def vmpte(pid: int) -> int:
    """Return `VmPTE` in bytes, read anew."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmPTE:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmPTE of {pid}")
