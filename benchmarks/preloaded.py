"""The cost of the preload library at the start of a program that has nothing for it: `python -m benchmarks.preloaded`,
or `make bench-run`.

Each command is a new process: without a preloaded library, with an empty one, and with that of `mshare run`. The three
take turns, so that the machine's other work affects all of them alike. A round gives the differences to the first of
the three, and the page has the medians and quartiles of these. valgrind counts the instructions.

May depend on: machine, output, preload.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter

from mshare._tools.preload import library

from . import machine, output

PLAIN, EMPTY, LIBRARY = "no library", "an empty library", "the library of `mshare run`"
COMMANDS = {"true": ["/bin/true"], "`python3 -c pass`": [sys.executable, "-c", "pass"]}
ROUNDS_PER_RUN = {"true": 20, "`python3 -c pass`": 1}
"""A short command needs more rounds for the same precision."""


@dataclass(frozen=True)
class Added:
    """The cost of a preloaded library to a command."""

    command: str
    preloaded: str
    real_us: float
    """Median of the whole command."""
    processor_us: float
    """The same: user and system, of wait4(2)."""
    added_us: tuple[float, float, float]
    """Quartiles of the real time that the library adds in a round."""
    added_processor_us: tuple[float, float, float]
    instructions: int | None
    """In user space, of the whole command; None if nobody has counted them."""


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command and return its real time and its processor time in microseconds."""
    start = perf_counter()
    pid = os.posix_spawn(command[0], list(command), environment)
    _, status, usage = os.wait4(pid, 0)
    real = perf_counter() - start
    if status:
        raise ChildProcessError(f"{' '.join(command)} ended with status {status}")
    return real * 1e6, (usage.ru_utime + usage.ru_stime) * 1e6


def _instructions(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return the number of instructions that a command executes in user space."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError("counting needs valgrind: sudo apt-get install valgrind")
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run([valgrind, *options, *command], capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"I +refs: +([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def _three(differences: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = quantiles(differences, n=4)
    return low, middle, high


def measure(runs: int, *, count: bool) -> list[Added]:
    """Start every command in each of the three ways, in turns, and `count` the instructions."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MSHARE_RUN")}
    found = []
    with TemporaryDirectory(prefix="mshare-bench-") as place:
        empty = Path(place, "libempty.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", empty, "/dev/null"], check=True)
        environments: dict[str, dict[str, str]] = {
            PLAIN: kept,
            EMPTY: {**kept, "LD_PRELOAD": str(empty)},
            LIBRARY: {**kept, "LD_PRELOAD": str(library.ensure())},
        }
        for name, command in COMMANDS.items():
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in environments}
            for _ in range(runs * ROUNDS_PER_RUN[name]):
                for way, environment in environments.items():
                    times[way].append(_timed(command, environment))
            for way, taken in times.items():
                pairs = list(zip(taken, times[PLAIN], strict=True))
                found.append(
                    Added(
                        name,
                        way,
                        median(real for real, _ in taken),
                        median(processor for _, processor in taken),
                        _three([one[0] - plain[0] for one, plain in pairs]),
                        _three([one[1] - plain[1] for one, plain in pairs]),
                        # The same hashes in each run: Python counts otherwise differ.
                        _instructions(command, {**environments[way], "PYTHONHASHSEED": "0"}) if count else None,
                    )
                )
    return found


def markdown(all_added: Sequence[Added], found: Mapping[str, object], runs: int) -> str:
    """Return the report. Pure."""
    lines = [
        "# What the preload library adds to a start",
        "",
        f"`make bench-run`: each command is a new process. {runs * ROUNDS_PER_RUN['true']} rounds for `true`, and",
        f"{runs} for Python, in which the three ways take turns. *Added* is the difference to the start without a",
        "library in the same round: the median, and in brackets the quartiles. The library has nothing to do in these",
        "programs.",
        "",
        machine.line(found),
        f"load average {found['load_1min']:.1f} at the start.",
        "",
        "| command | preloaded | real time | added | processor time | added | instructions in user space |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for each in all_added:
        plain = next(other for other in all_added if (other.command, other.preloaded) == (each.command, PLAIN))
        added, processor = ("", "") if each is plain else (_shown(each.added_us), _shown(each.added_processor_us))
        lines.append(
            f"| {each.command} | {each.preloaded} | {each.real_us:.0f} µs | {added} | {each.processor_us:.0f} µs "
            f"| {processor} | {_counted(each, plain)} |"
        )
    return "\n".join([*lines, ""])


def _shown(three: tuple[float, float, float]) -> str:
    return f"{three[1]:.0f} µs ({three[0]:.0f} to {three[2]:.0f})"


def _counted(each: Added, plain: Added) -> str:
    if each.instructions is None or plain.instructions is None:
        return "not counted"
    more = each.instructions - plain.instructions
    if each is plain:
        return f"{each.instructions:,}"
    return f"{more:+,} ({100 * more / plain.instructions:+.2g} %)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preloaded", description=__doc__)
    parser.add_argument("--runs", type=int, default=101, metavar="N", help="starts of Python; `true` starts 20 times N")
    parser.add_argument("--count", action="store_true", help="count instructions, with valgrind")
    output.add_options(parser)
    options = parser.parse_args()
    found = machine.facts(("mshare",))
    all_added = measure(options.runs, count=options.count)
    document = {"machine": found, "runs": options.runs, "starts": [asdict(each) for each in all_added]}
    output.write(options, document, markdown(all_added, found, options.runs))


if __name__ == "__main__":
    main()
