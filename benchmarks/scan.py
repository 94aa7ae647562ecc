"""`python -m benchmarks.scan`: the cost of `mshare scan` with many processes, against a plain read of the same files.
May depend on: crowd.

Each time is the median of several runs of a whole new process, and each peak is that process's `ru_maxrss`. The rivals
read files and throw the text away. One rival is cat with `maps` and `status`, the files that a scan reads. The other
reads `smaps`, the file of tools that show memory per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

from .crowd import crowd

SHAPES = ((375, 40), (750, 40), (1500, 40), (1500, 160))
RUNS = 5
COMMANDS = {
    "mshare scan": [sys.executable, "-m", "mshare", "scan", "--json"],
    "mshare scan --exact": [sys.executable, "-m", "mshare", "scan", "--exact", "--json"],
    "cat maps status": ["/bin/sh", "-c", "cat /proc/[0-9]*/maps /proc/[0-9]*/status 2>/dev/null; true"],
    "cat smaps": ["/bin/sh", "-c", "cat /proc/[0-9]*/smaps 2>/dev/null; true"],
}


class Taken(NamedTuple):
    """The time and the memory of one command."""

    seconds: float
    peak_bytes: int


def timed(command: list[str]) -> Taken:
    """Run `command` once and throw its output away."""
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return Taken(seconds, usage.ru_maxrss * 1024)


def measure() -> list[dict[str, object]]:
    """Return one row per command and shape."""
    rows: list[dict[str, object]] = []
    for processes, mappings in SHAPES:
        with crowd(processes, mappings):
            for name, command in COMMANDS.items():
                taken = [timed(command) for _ in range(RUNS)]
                row: dict[str, object] = {
                    "processes": processes,
                    "mappings": mappings,
                    "command": name,
                    "seconds": round(median(each.seconds for each in taken), 3),
                    "peak_mib": round(median(each.peak_bytes for each in taken) / (1 << 20), 1),
                }
                print(
                    "{processes:>6} x {mappings:<4} {command:<20} {seconds:>7} s {peak_mib:>7} MiB".format(**row),
                    flush=True,
                )
                rows.append(row)
    return rows


def main() -> None:
    """Measure; `sys.argv[1]`, if there is one, is a file for the JSON."""
    load = Path("/proc/loadavg").read_text().split()[0]
    document = {"load_at_start": load, "runs": RUNS, "rows": measure()}
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
