"""The time until workers can use a table, and the memory of all of them: `python -m benchmarks.first_use [--size 2G]`,
or `make bench-first-use`.

A table of 8-byte numbers lies in a file. For each mechanism, one process provides the table, and 8 new workers, which
have imported all they need, get the word at the same moment. First use: a worker has the table and has read 1,000 rows
of it. Whole: the worker has added up all rows. Memory: the growth of PSS and of page tables, over all workers and the
process that provides, when all rows have been read. The mechanisms take turns in each run; figures are medians.
May depend on: machine, output, procfs, units, mshare, mshare.numpy, numpy, joblib.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import numpy

import mshare
import mshare.numpy
from mshare._core.procfs import parse_fields_kb
from mshare._core.units import format_size, format_time, parse_size

from . import machine, output

WORKERS, PICKED = 8, 1000
OURS, LOADING = "mshare.numpy", "numpy.load in each worker"
FIRST_USE_TARGET, MEMORY_TARGET = 1 / 20, 1.02
_BLOCK = 1 << 20
Array = numpy.ndarray[Any, numpy.dtype[Any]]


@dataclass(frozen=True)
class Place:
    """Where the table is: its file, a directory in memory, and a name that no other run uses."""

    file: Path
    memory: Path
    name: str


@dataclass(frozen=True)
class Mechanism:
    """A way to give workers a table: what one process does, what each worker does with the result, and the end."""

    provide: Callable[[Place, ExitStack], Any]
    """Make the table ready and return what workers are sent. The stack undoes everything."""
    use: Callable[[Any, list[Any]], Array]
    """Return the table in a worker. Objects in the list live as long as the table."""
    copies: bool = False
    """Whether each worker has a copy of the table."""


def _save(place: Place, undo: ExitStack) -> str:
    mshare.numpy.save(place.name, numpy.load(place.file, mmap_mode="r")).close()
    undo.callback(mshare.unlink, place.name)
    return place.name


def _share(place: Place, undo: ExitStack) -> tuple[str, int]:
    table = numpy.load(place.file, mmap_mode="r")
    block = SharedMemory(place.name, create=True, size=table.nbytes)
    undo.callback(block.unlink)
    undo.callback(block.close)
    numpy.ndarray(table.shape, table.dtype, block.buf)[:] = table
    return place.name, len(table)


def _attach_shared(token: tuple[str, int], kept: list[Any]) -> Array:
    kept.append(SharedMemory(token[0]))
    return numpy.ndarray(token[1], "f8", kept[-1].buf)


def _dump(place: Place, undo: ExitStack) -> str:
    file = place.memory / place.name
    joblib.dump(numpy.load(place.file, mmap_mode="r"), file)
    undo.callback(file.unlink)
    return str(file)


MECHANISMS = {
    LOADING: Mechanism(lambda place, undo: str(place.file), lambda token, kept: numpy.load(token), copies=True),
    OURS: Mechanism(_save, lambda token, kept: mshare.numpy.load(token)),
    "multiprocessing.shared_memory": Mechanism(_share, _attach_shared),
    'numpy.load(mmap_mode="r")': Mechanism(
        lambda place, undo: str(place.file), lambda token, kept: numpy.load(token, mmap_mode="r")
    ),
    "joblib, memmapped in /dev/shm": Mechanism(_dump, lambda token, kept: joblib.load(token, mmap_mode="r")),
    "pickle, through a pipe": Mechanism(
        lambda place, undo: numpy.load(place.file), lambda token, kept: token, copies=True
    ),
}


@dataclass(frozen=True)
class Trial:
    """The figures of one mechanism in one run. Times are medians over the workers."""

    mechanism: str
    provide_s: float
    first_use_s: float
    whole_s: float
    memory_bytes: int


def _memory_bytes() -> int:
    """Return the memory that this process has to answer for: its proportional set size, and its page tables."""
    pss = parse_fields_kb(Path("/proc/self/smaps_rollup").read_bytes())["Pss"]
    return pss + parse_fields_kb(Path("/proc/self/status").read_bytes())["VmPTE"]


def _work(pipe: Connection, mechanism: str) -> None:
    """Use the table as one worker: answer `ready`, take the table, and report times and memory when asked."""
    use = MECHANISMS[mechanism].use
    kept: list[Any] = []
    pipe.send("ready")
    pipe.recv()
    before = _memory_bytes()  # when all workers are there: they share the pages of libraries
    pipe.send("begin")
    started, token = pipe.recv()
    table = use(token, kept)
    picked = float(table[:: max(1, len(table) // PICKED)].sum())
    first = time.monotonic() - started
    whole = sum(float(table[start : start + _BLOCK].sum()) for start in range(0, len(table), _BLOCK))
    pipe.send((first, time.monotonic() - started, picked, whole))
    pipe.recv()
    pipe.send(_memory_bytes() - before)
    pipe.recv()
    del table, token
    for block in kept:
        block.close()


def trial(name: str, place: Place, workers: int) -> Trial:
    """Measure one mechanism once."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as undo:
        pipes = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, name))
            process.start()
            undo.callback(process.join)
            undo.callback(ours.close)
            pipes.append(ours)
        for word in ("ready", "begin"):
            assert [pipe.recv() for pipe in pipes] == [word] * workers
            if word == "ready":
                for pipe in pipes:
                    pipe.send("begin")
        gc.collect()
        before = _memory_bytes()
        begun = time.monotonic()
        token = MECHANISMS[name].provide(place, undo)
        started = time.monotonic()
        for pipe in pipes:
            pipe.send((started, token))
        answers = [pipe.recv() for pipe in pipes]
        assert len({answer[2:] for answer in answers}) == 1, "the workers have different tables"
        for pipe in pipes:
            pipe.send("measure")
        memory = sum(pipe.recv() for pipe in pipes) + _memory_bytes() - before
        for pipe in pipes:
            pipe.send("end")
        del token
        first, whole = (median(answer[place] for answer in answers) for place in (0, 1))
        return Trial(name, started - begun, first, whole, memory)


def medians(trials: Sequence[Trial]) -> list[Trial]:
    """Return the median of each figure by mechanism."""
    found = []
    for name in MECHANISMS:
        own = [each for each in trials if each.mechanism == name]
        if own:
            provide, first, whole = (
                median(values) for values in zip(*((t.provide_s, t.first_use_s, t.whole_s) for t in own), strict=True)
            )
            found.append(Trial(name, provide, first, whole, int(median(each.memory_bytes for each in own))))
    return found


def _busy(found: Mapping[str, Any]) -> list[str]:
    return (
        ["other work ran beside the benchmark, and times are longer for it"]
        if found["load_1min"] > found["cpus"]
        else []
    )


def markdown(rows: Sequence[Trial], found: Mapping[str, Any], size: int, workers: int, runs: int) -> str:
    """Return the report. Pure."""
    of = {row.mechanism: row for row in rows}
    loading, ours = of[LOADING], of[OURS]
    lines = [
        f"# {workers} workers share a table of {format_size(size)}",
        "",
        f"`make bench-first-use`: medians over {runs} runs, in which all mechanisms take turns. The workers are new",
        "processes that have imported what they need, and start at the same moment. First use: the table is there and",
        "1,000 rows of it are read. Whole: all rows are read. Memory: growth of PSS and page tables, over all workers",
        "and the process that provides the table, when all rows have been read. The file is in the page cache.",
        "Without `SIZE=` the table has 2 GiB.",
        "",
        machine.line(found),
        f"numpy {found['numpy']}, joblib {found['joblib']}, load average {found['load_1min']:.1f}.",
        *[f"Remark: {remark}." for remark in [*machine.remarks(found), *_busy(found)]],
        "",
        "| mechanism | provide, once | first use | of loading's | whole | memory | of one copy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.mechanism} | {format_time(row.provide_s * 1e9)} | {format_time(row.first_use_s * 1e9)} "
            f"| {row.first_use_s / loading.first_use_s:.4f} | {format_time(row.whole_s * 1e9)} "
            f"| {format_size(row.memory_bytes)} | {row.memory_bytes / size:.3f} |"
        )
    part, memory = ours.first_use_s / loading.first_use_s, ours.memory_bytes / size
    lines += [
        "",
        f"Target: first use in at most 1/20 of the time of loading: 1/{1 / part:.0f}, "
        f"{'met' if part <= FIRST_USE_TARGET else 'not met'}.",
        "",
        f"Target: memory within 2 % of one copy: {memory:.3f} copies, "
        f"{'met' if memory <= MEMORY_TARGET else 'not met'}.",
        "",
        _NOTES,
    ]
    return "\n".join(lines)


_NOTES = """\
A mapped file has no provider. Its pages can be dropped when memory is short, and its file system decides whether its
page tables have 4 KiB leaves. The first use after a restart waits for the disk, which the table above does not show.
joblib writes the array into a file of its own format in /dev/shm and maps that, as `joblib.Parallel` does. PSS counts
a page that several processes map once, in equal parts.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_use", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"), help="bytes of the table")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the file is made, on a disk")
    output.add_options(parser)
    options = parser.parse_args()
    available = parse_fields_kb(Path("/proc/meminfo").read_bytes())["MemAvailable"]
    names = [
        name for name, each in MECHANISMS.items() if not each.copies or (options.workers + 2) * options.size < available
    ]
    if LOADING not in names:
        parser.error(f"{options.workers} workers cannot load {format_size(options.size)} each: use a smaller --size")
    found = machine.facts(("mshare", "numpy", "joblib"))
    trials = []
    with ExitStack() as undo:
        folders = [options.directory, "/dev/shm"]
        disk, memory = (
            Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="mshare-bench-", dir=folder)))
            for folder in folders
        )
        place = Place(disk / "table.npy", memory, f"bench-first-use-{time.monotonic_ns()}")
        numpy.save(place.file, numpy.arange(options.size // 8, dtype="f8"))
        for run in range(options.runs):
            for name in names:
                trials.append(trial(name, place, options.workers))
                print(f"run {run + 1}: {trials[-1]}", file=sys.stderr)
    document = {"machine": found, "size_bytes": options.size, "workers": options.workers, "runs": options.runs}
    document["trials"] = [asdict(each) for each in trials]
    output.write(options, document, markdown(medians(trials), found, options.size, options.workers, options.runs))


if __name__ == "__main__":
    main()
