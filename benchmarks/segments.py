"""The time that a segment of shared memory takes: `python -m benchmarks.segments [--runs 5]`, or `make bench-segments`.

`mshare.shared_memory` beside `multiprocessing.shared_memory`, in one process, in turns. A segment is created, attached
a second time, written and read from end to end, closed and removed. Each figure is the median of the runs, and a run is
the median of its rounds. May depend on: machine, output, shared_memory, units.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import shared_memory as standard
from statistics import median
from time import perf_counter
from typing import Any

from mshare import shared_memory as ours
from mshare._core.units import format_size

from . import machine, output

ROUNDS = {4 << 10: 300, 1 << 20: 100, 256 << 20: 5}
"""Rounds of a run for each size in bytes."""
STEPS = ("create", "attach", "first write", "read by the other", "close and unlink")


@dataclass(frozen=True)
class Figure:
    """The median time of a step in microseconds with each class."""

    size: int
    step: str
    standard_us: float
    ours_us: float

    @property
    def ratio(self) -> float:
        """Our time as a multiple of the standard class's."""
        return self.ours_us / self.standard_us


def _timed(call: Callable[[], Any], times: list[float]) -> Any:
    start = perf_counter()
    value = call()
    times.append((perf_counter() - start) * 1e6)
    return value


def _round(module: Any, size: int) -> list[float]:
    """Return the times of the steps, in microseconds."""
    times: list[float] = []
    segment = _timed(lambda: module.SharedMemory(create=True, size=size), times)
    other = _timed(lambda: module.SharedMemory(segment.name), times)
    ones = b"\1" * min(size, 1 << 20)

    def write() -> None:
        for start in range(0, size, len(ones)):
            segment.buf[start : start + len(ones)] = ones

    def read() -> bytes:
        return bytes(other.buf[:: 4 << 10])

    def end() -> None:
        other.close()
        segment.close()
        segment.unlink()

    for step in (write, read, end):
        _timed(step, times)
    return times


def measure(runs: int) -> list[Figure]:
    """Measure every size `runs` times, the two classes in turns."""
    figures = []
    for size, rounds in ROUNDS.items():
        medians: dict[Any, list[list[float]]] = {standard: [], ours: []}
        for _ in range(runs):
            for module, found in medians.items():
                _round(module, size)
                taken = [_round(module, size) for _ in range(rounds)]
                found.append([median(times) for times in zip(*taken, strict=True)])
        each = {module: [median(run) for run in zip(*found, strict=True)] for module, found in medians.items()}
        steps = zip(STEPS, each[standard], each[ours], strict=True)
        figures += [Figure(size, step, before, after) for step, before, after in steps]
    return figures


def markdown(figures: Sequence[Figure], found: Mapping[str, Any], runs: int) -> str:
    """Return the report. Pure."""
    lines = [
        "# A segment of `mshare.shared_memory` and a standard one",
        "",
        f"`make bench-segments`: one process, the two classes in turns, medians of {runs} runs. mshare takes and",
        "clears the memory when it creates a segment, the standard class does at the first write. The second object",
        "is in the same process, where mshare uses the mapping that is there. Another process has to touch the pages",
        "with either class: [other figures](benchmarks-host.md) are those of several processes.",
        "",
        machine.line(found),
        f"load average {found['load_1min']:.1f}.",
        "",
        "| size | step | standard | mshare | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {format_size(each.size)} | {each.step} | {each.standard_us:,.0f} µs | {each.ours_us:,.0f} µs "
        f"| {_times(each.ratio)} |"
        for each in figures
    ]
    lines.append("")
    for size in dict.fromkeys(each.size for each in figures):
        before = sum(each.standard_us for each in figures if each.size == size)
        after = sum(each.ours_us for each in figures if each.size == size)
        lines.append(f"- All steps of {format_size(size)} take {_times(after / before)} times the standard time.")
    return "\n".join([*lines, ""])


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segments", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each size")
    output.add_options(parser)
    options = parser.parse_args()
    found = machine.facts()
    figures = measure(options.runs)
    document = {"machine": found, "runs": options.runs, "figures": [asdict(figure) for figure in figures]}
    output.write(options, document, markdown(figures, found, options.runs))


if __name__ == "__main__":
    main()
