"""The cost of a running `mshare top`: `python -m benchmarks.top [--processes 300] [--intervals 4]`.

The benchmark starts processes that all map one file. The processes are not forks of each other, so each has its own
addresses. `mshare top` then runs on a real pseudo-terminal of 50 lines and 160 columns. The benchmark prints the
processor time of `mshare top` (utime + stime of /proc/PID/stat) after the first reading, per interval and as a part of
one core. May depend on: nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile

LINES, COLUMNS = 50, 160
INTERVAL_S = 5
FILE_BYTES = 8 << 20

_MAPPER = """
import mmap, os, sys
mapped = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
sum(mapped[::4096])
os.write(1, b"x")
os.read(0, 1)
"""


@contextmanager
def processes(count: int) -> Iterator[list[int]]:
    """Give the pids of `count` processes that map the same file and have touched all of it."""
    with ExitStack() as ended, NamedTemporaryFile(dir="/dev/shm", prefix="mshare-bench-") as file:
        file.truncate(FILE_BYTES)
        command = [sys.executable, "-I", "-S", "-c", _MAPPER, file.name]
        started = []
        for _ in range(count):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            ended.enter_context(process)
            assert process.stdin is not None
            ended.callback(process.stdin.close)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            if process.stdout.read(1) != b"x":
                raise RuntimeError(f"process {process.pid} ended early")
        yield [process.pid for process in started]


def cpu_seconds(pid: int) -> float:
    """Return utime + stime of /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_for(terminal: int, seconds: float, until: bytes | None = None) -> None:
    """Read the terminal for so long, or until its text contains `until`."""
    deadline, seen = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            seen += os.read(terminal, 1 << 16)
            if until is not None and until in seen:
                return
    if until is not None:
        raise TimeoutError(f"top did not show {until!r} within {seconds} s")


def measure(intervals: int, extra: tuple[str, ...] = ()) -> list[float]:
    """Return the processor seconds that `mshare top` takes in each of so many intervals."""
    controller, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "mshare", "top", "--interval", str(INTERVAL_S), *extra]
    environment = {**os.environ, "TERM": "xterm-256color"}
    top = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    try:
        read_for(controller, 60, b"PageTables")
        read_for(controller, INTERVAL_S / 2)  # measure from the middle between two readings to the next middle
        taken = [cpu_seconds(top.pid)]
        for _ in range(intervals):
            read_for(controller, INTERVAL_S)
            taken.append(cpu_seconds(top.pid))
        return [after - before for before, after in pairwise(taken)]
    finally:
        top.terminate()
        read_for(controller, 0.5)
        top.wait(10)
        os.close(controller)
        os.close(theirs)


def main() -> int:
    """Measure, print, and return 0 if it stayed under 5 % of one core."""
    parser = argparse.ArgumentParser(prog="benchmarks.top", description=__doc__)
    parser.add_argument("--processes", type=int, default=300)
    parser.add_argument("--intervals", type=int, default=4)
    options = parser.parse_args()
    with processes(options.processes) as pids:
        mappings = sum(Path(f"/proc/{pid}/maps").read_bytes().count(b"\n") for pid in pids) / len(pids)
        seconds = measure(options.intervals)
    part = sum(seconds) / len(seconds) / INTERVAL_S
    each = ", ".join(f"{1000 * spent:.0f}" for spent in seconds)
    print(f"{len(pids)} processes with {mappings:.0f} mappings each, every {INTERVAL_S} s: {each} ms of processor time")
    print(f"{100 * part:.1f} % of one core (target: under 5 %)")
    return 0 if part < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
