"""The time of a start: `python -m benchmarks.start [--runs 21]`, or `make bench-start`.

Each command is a new process. The commands take turns, so that the machine's other work affects all of them alike.
Times are medians. A person waits for the real time. The processor time (user and system, of wait4(2)) changes less on a
busy machine. Bytecode is there before the first run, as after an installation. May depend on: machine, output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory
from time import perf_counter

from . import machine, output

BARE = "Python"
PEER = "`import multiprocessing.shared_memory`"
IMPORT, LIST = "`import mshare`", "`mshare ls`"
TARGETS_MS = {IMPORT: 40, LIST: 150}
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    PEER: [sys.executable, "-c", PEER.strip("`")],
    IMPORT: [sys.executable, "-c", IMPORT.strip("`")],
    LIST: [str(Path(sys.executable).with_name("mshare")), "ls"],
}


@dataclass(frozen=True)
class Start:
    """The times of a command from its start to its end: medians."""

    command: str
    real_ms: float
    processor_ms: float


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run `command` and return its real time and its processor time in milliseconds."""
    start = perf_counter()
    process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    real = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(command)} ended with {process.returncode}")
    return real * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def measure(runs: int) -> list[Start]:
    """Start every command `runs` times, in turns, while no region exists."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "MSHARE_BACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    with TemporaryDirectory(prefix="mshare-bench-") as root:
        environment["MSHARE_ROOT"] = root
        for command in COMMANDS.values():
            _timed(command, environment)  # the first run writes the bytecode and brings the files into memory
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        for _ in range(runs):
            for name, command in COMMANDS.items():
                times[name].append(_timed(command, environment))
    return [
        Start(name, median(real for real, _ in taken), median(processor for _, processor in taken))
        for name, taken in times.items()
    ]


def markdown(starts: Sequence[Start], found: Mapping[str, object], runs: int) -> str:
    """Return the report. Pure."""
    bare = next(start for start in starts if start.command == BARE)
    peer = next(start for start in starts if start.command == PEER)
    lines = [
        "# What it takes to start",
        "",
        f"`make bench-start`: each command is a new process, from its start to its end. Medians of {runs} runs, in",
        "which the commands take turns. On an idle machine the real time is the processor time and about 1 ms. Where",
        "other work runs, the real time is many times longer, and the processor time up to a third. The targets are",
        "therefore compared with the processor time.",
        "",
        machine.line(found),
        f"typer {found['typer']}, rich {found['rich']}, load average {found['load_1min']:.1f}.",
        "",
        "| command | processor time | of Python's | of `shared_memory`'s | real time | target |",
        "|---|---|---|---|---|---|",
    ]
    for start in starts:
        target = TARGETS_MS.get(start.command)
        verdict = "" if target is None else f"{target} ms: {'met' if start.processor_ms <= target else 'not met'}"
        lines.append(
            f"| {start.command} | {start.processor_ms:.0f} ms | {start.processor_ms / bare.processor_ms:.1f} "
            f"| {start.processor_ms / peer.processor_ms:.1f} | {start.real_ms:.0f} ms | {verdict} |"
        )
    return "\n".join([*lines, "", _WHY, ""])


_WHY = """\
Of `import mshare`, Python itself is the largest part. The modules of the core do without `dataclasses`, `typing`,
`inspect`, `re`, `pathlib`, `urllib` and `socket`, which together take longer to load than the core does
(`tests/unit/test_start.py`). The import is complete: a program may drop its rights, or change its root, and only then
use a name. Of `mshare ls`, two thirds are `typer` and `rich`.

Without bytecode, Python compiles every module at every start. That is so where `PYTHONDONTWRITEBYTECODE` is set, or
where the package lies in a directory that its user may not write to and was not compiled when it was installed.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="starts of each command")
    output.add_options(parser)
    options = parser.parse_args()
    found = machine.facts(("mshare", "typer", "rich"))
    starts = measure(options.runs)
    document = {"machine": found, "runs": options.runs, "starts": [asdict(start) for start in starts]}
    output.write(options, document, markdown(starts, found, options.runs))


if __name__ == "__main__":
    main()
