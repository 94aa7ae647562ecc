"""How much a program is disturbed while its memory becomes 2 MiB pages: `python -m benchmarks.disturb`, as root, or
`make bench-disturb`.

The same program (`disturbed`) works on its memory all the time, and the memory is collapsed by the thread of
`--fill later`, by `mshare collapse --follow` from outside, or not at all. The ways take turns, in another order in each
round. What they cost is compared with the program without collapse, in the same time after the start and in the same
round.

May depend on: disturbed, leaves, machine, output, preload, units.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from mshare._core.units import format_size, parse_size
from mshare._tools.preload import library

from . import disturbed, machine, output
from .leaves import leaves

NEVER, LATER = "no collapse", "`--fill later`"
FOLLOW, FOLLOW_20 = "`--follow`", "`--follow --max-cpu 20`"
WAYS = (NEVER, LATER, FOLLOW, FOLLOW_20)
_FOLLOW_OPTIONS = {FOLLOW: [], FOLLOW_20: ["--max-cpu", "20"]}
LIMIT_S = 120.0
PARTS = (0.5, 0.99, 0.999, 1)
_LOOK_S = 0.05
_LEFT = 0.03
"""The part of the blocks that may still have 4 KiB pages: a program may use these all the time."""


@dataclass(frozen=True)
class Run:
    """One run, of all its workers together."""

    way: str
    round: int
    seconds: float
    """From the start to the last block; without collapse, of the whole run."""
    operations: int
    """In that time; the latencies are theirs."""
    p50_us: float
    p99_us: float
    p999_us: float
    longest_us: float
    blocked: float
    """The part of the time in which the kernel blocked a process."""
    longest_blocked_us: float
    after: float
    """Operations per second of processor time afterwards."""
    by_time: float
    """Operations as a part of those without collapse in the same time and round; 1 without collapse."""
    by_processor: float
    """The same of operations per second of processor time."""
    load: float
    """The machine's load average at the end."""


@dataclass(frozen=True)
class Times:
    """The ends of each worker's operations, in ns; the first number is the start. And samples of its times."""

    workers: list[array[int]]
    samples: list[array[int]]
    """Of each worker: time, processor time and time in the run queue, in ns, one after the other."""

    @property
    def start(self) -> int:
        return max(times[0] for times in self.workers)

    def count(self, start: int, end: int) -> int:
        """Return how many operations ended between two moments."""
        return sum(bisect_right(times, end) - bisect_right(times, start) for times in self.workers)

    def latencies(self, start: int, end: int) -> list[int]:
        """Return the sorted times in ns of the operations that ended between two moments."""
        found = []
        for times in self.workers:
            part = times[max(0, bisect_right(times, start) - 1) : bisect_right(times, end)]
            found += [after - before for before, after in pairwise(part)]
        return sorted(found)

    def spent(self, start: int, end: int) -> tuple[float, float, float]:
        """Return the processor time in seconds of all workers between two moments, the part of the time in which the
        kernel blocked them, and the longest time in ns between two samples in which it did."""
        processor = blocked = total = longest = 0
        for numbers in self.samples:
            moments = numbers[::3]
            first, last = max(0, bisect_right(moments, start) - 1), bisect_right(moments, end) - 1
            triples = [numbers[3 * at : 3 * at + 3] for at in range(first, last + 1)]
            for before, after in pairwise(triples):
                passed, ran, queued = (new - old for old, new in zip(before, after, strict=True))
                processor, total = processor + ran, total + passed
                blocked += max(0, passed - ran - queued)
                longest = max(longest, passed - ran - queued)
        return processor / 1e9, blocked / total if total else 0.0, longest


@contextmanager
def _follower(way: str) -> Iterator[None]:
    """Let `mshare collapse --follow` watch the program for the time of a `with` block, if the way asks for it."""
    if way not in _FOLLOW_OPTIONS:
        yield
        return
    command = [sys.executable, "-m", "mshare", "collapse", "--follow", "--every", "1s", "--max-pressure", "100"]
    command += ["--command", disturbed.NAME, *_FOLLOW_OPTIONS[way]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as follower:
        assert follower.stdout is not None
        first = follower.stdout.readline()
        if "waiting" not in first:
            raise ChildProcessError(first + follower.stdout.read())
        try:
            yield
        finally:
            follower.terminate()


def _until_collapsed(pid: int) -> None:
    """Wait until nearly all memory of the program is 2 MiB pages."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        time.sleep(_LOOK_S)
        found = leaves(pid)
        if found is None:
            raise PermissionError("collapsing the memory of another process needs root")
        if found.left <= _LEFT * found.huge:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {LIMIT_S:.0f} s {found.left} blocks are not collapsed: {found.huge} are")


def _run(way: str, size: int, workers: int, seconds: float) -> tuple[Times, int]:
    """Run the program in one of the ways. Return the times, and the moment in ns at which the last block was made."""
    asked = f"backend=thp,min=2M,quiet=yes,fill={'later' if way == LATER else 'never'}"
    environment = {**os.environ, "LD_PRELOAD": str(library.ensure()), "MSHARE_RUN": asked}
    with TemporaryDirectory(prefix="mshare-bench-") as place, _follower(way):
        command = [sys.executable, "-S", disturbed.__file__, str(size), str(workers), place]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            for _ in range(workers):
                assert program.stdout.readline() == "touched\n"
            if way == NEVER:
                time.sleep(seconds)
            else:
                _until_collapsed(program.pid)
            end = time.perf_counter_ns()
            time.sleep(seconds / 4)
        if program.returncode:
            raise ChildProcessError(f"the program ended with {program.returncode}")
        found = Times([], [])
        for kept, suffix in ((found.workers, ""), (found.samples, ".samples")):
            for number in range(workers):
                kept.append(array("Q"))
                kept[-1].frombytes(Path(place, f"{number}{suffix}").read_bytes())
    return found, end


def _summary(way: str, number: int, times: Times, end: int, alone: Times, seconds: float) -> Run:
    """`seconds` is the least that `alone` ran."""
    start = times.start
    compared = alone.start + min(end - start, int(seconds * 1e9))
    latencies = times.latencies(start, end)
    p50, p99, p999, longest = (latencies[min(len(latencies) - 1, int(len(latencies) * part))] / 1e3 for part in PARTS)
    processor, blocked, longest_blocked = times.spent(start, end)
    others = alone.count(alone.start, compared)
    stop = end + int(seconds / 4 * 1e9)
    return Run(
        way,
        number,
        (end - start) / 1e9,
        len(latencies),
        p50,
        p99,
        p999,
        longest,
        blocked,
        longest_blocked / 1e3,
        times.count(end, stop) / times.spent(end, stop)[0],
        1 if way == NEVER else len(latencies) / others * (compared - alone.start) / (end - start),
        1 if way == NEVER else len(latencies) / processor / (others / alone.spent(alone.start, compared)[0]),
        os.getloadavg()[0],
    )


def measure(size: int, workers: int, rounds: int, seconds: float) -> list[Run]:
    """Run each way `rounds` times. `size` in bytes; `seconds` is the time of a run without collapse, and four times the
    time that a run goes on after its last block."""
    runs = []
    for number in range(rounds):
        shift = number % len(WAYS)
        kept = {way: _run(way, size, workers, seconds) for way in WAYS[shift:] + WAYS[:shift]}
        alone = kept[NEVER][0]
        runs += [_summary(way, number, *kept[way], alone, seconds) for way in WAYS]
    return runs


def markdown(runs: Sequence[Run], document: Mapping[str, Any]) -> str:
    """Return the report. Pure."""
    found = document["machine"]
    loads = [run.load for run in runs]
    rounds = max(run.round for run in runs) + 1
    lines = [
        "# What disturbs a program less: `--fill later` or `mshare collapse --follow`",
        "",
        f"`make bench-disturb`: {document['workers']} processes write to random pages of {document['size']} of shared",
        f"memory all the time. An operation is {disturbed.WRITES} writes. In that time the memory is collapsed by the",
        "thread in the program, or by another program that looks every second. No page is touched before the start.",
        f"Medians of {rounds} rounds, in which the ways take turns, with the lowest and the highest in brackets.",
        "",
        "*Work* is the operations until the last block is collapsed, as a part of those without collapse in the same",
        "time after the start; *per processor second* leaves out the time in which a process did not run. *Blocked* is",
        "the part of the time in which the kernel let a process wait, neither running nor in the run queue.",
        "*In all* is that time per process, less what it is without collapse.",
        f"*Afterwards* is the work per processor second in the {document['seconds'] / 4:g} s after the last block.",
        "Other work on the machine lengthens all times. It lengthens *blocked* only where it preempts what collapses.",
        "",
        f"Machine: {found['cpus']} processors ({found['cpu']}), Linux {found['kernel']}, load average",
        f"{min(loads):.1f} to {max(loads):.1f} (the program itself is {document['workers']}).",
        "",
        "| way | time | work | per processor second | p99 | p99.9 | longest | blocked | in all | longest block "
        "| afterwards |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    alone = {run.round: run for run in runs if run.way == NEVER}
    for way in WAYS:
        those = [run for run in runs if run.way == way]
        columns = [
            ([run.seconds for run in those], "{:.1f} s"),
            ([run.by_time for run in those], "{:.2f}"),
            ([run.by_processor for run in those], "{:.2f}"),
            ([run.p99_us for run in those], "{:.0f} µs"),
            ([run.p999_us / 1e3 for run in those], "{:.1f} ms"),
            ([run.longest_us / 1e3 for run in those], "{:.0f} ms"),
            ([100 * run.blocked for run in those], "{:.1f} %"),
            ([run.seconds * (run.blocked - alone[run.round].blocked) for run in those], "{:.2f} s"),
            ([run.longest_blocked_us / 1e3 for run in those], "{:.0f} ms"),
            ([run.after / alone[run.round].after for run in those], "{:.2f}"),
        ]
        lines.append(f"| {way} | {' | '.join(_shown(values, unit) for values, unit in columns)} |")
    return "\n".join([*lines, ""])


def _shown(values: Sequence[float], unit: str) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{unit.format(median(values))} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disturb", description=__doc__)
    parser.add_argument("--size", default="128M", help="the shared memory")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that work on it")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each way")
    parser.add_argument("--seconds", type=float, default=8, metavar="S", help="the time of a run without collapse")
    output.add_options(parser)
    options = parser.parse_args()
    size = parse_size(options.size)
    found = machine.facts(("mshare",))
    runs = measure(size, options.workers, options.rounds, options.seconds)
    document = {
        "machine": found,
        "size": format_size(size),
        "workers": options.workers,
        "seconds": options.seconds,
        "runs": [asdict(run) for run in runs],
    }
    output.write(options, document, markdown(runs, document))


if __name__ == "__main__":
    main()
