"""The time until workers can use a table, and the memory of all of them: `python -m benchmarks.first_use [--size 2G]`,
or `make bench-first-use`.

A table of 8-byte numbers lies in a file. For each mechanism, one process provides the table, and 8 new workers, which
have imported all they need, get the word at the same moment. First use: a worker has the table and has read 1,000 rows
of it. Whole: the worker has added up all rows. Memory: the growth of PSS and of page tables, over all workers, the
process that provides, and the daemons of the mechanism, when all rows have been read. The mechanisms take turns in each
run; figures are medians. A mechanism whose package is not installed, or for which the memory does not suffice, is named
in the report.
May depend on: machine, output, procfs, units, mshare, mshare.numpy, numpy, joblib.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
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
PACKAGES = ("numpy", "joblib", "torch", "ray")
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
    copies: tuple[int, int] = (0, 1)
    """Copies of the table that are in memory at the same time, at most: in each worker, and beside the workers."""
    package: str | None = None
    """The package that has to be installed."""
    start: Callable[[Place, ExitStack], Any] = lambda place, undo: None
    """Before all times: import what the provider needs, start daemons, and return what workers need to connect."""
    connect: Callable[[Any], None] = lambda token: None
    """Before all times, in each worker: import, and connect to the daemons."""

    def missing(self, size: int, workers: int, available: int) -> str | None:
        """Return why the mechanism cannot run where so many bytes are available, or None."""
        if self.package is not None and find_spec(self.package) is None:
            return f"{self.package} is not installed"
        needed = (self.copies[0] * workers + self.copies[1]) * size
        return (
            None if needed < available else f"needs {format_size(needed)} of memory, {format_size(available)} are free"
        )


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


def _import_torch(token: object, undo: object = None) -> None:
    del token, undo
    import_module("torch.multiprocessing")


def _share_tensor(place: Place, undo: ExitStack) -> Any:
    del undo  # the memory goes with the tensor
    torch = import_module("torch")
    table = numpy.load(place.file, mmap_mode="r")
    tensor = torch.empty(table.shape, dtype=torch.float64).share_memory_()
    tensor.numpy()[:] = table
    return tensor


def _start_ray(place: Place, undo: ExitStack) -> str:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = import_module("ray")
    store = place.file.stat().st_size * 11 // 10 + (80 << 20)
    ray.init(num_cpus=0, include_dashboard=False, object_store_memory=store, log_to_driver=False, logging_level="ERROR")
    undo.callback(ray.shutdown)
    return str(ray.get_runtime_context().gcs_address)


def _connect_ray(address: str) -> None:
    import_module("ray").init(address=address, log_to_driver=False, logging_level="ERROR")


def _put(place: Place, undo: ExitStack) -> bytes:
    ray = import_module("ray")
    reference = ray.put(numpy.asarray(numpy.load(place.file, mmap_mode="r")))  # Ray copies what is not a plain array
    undo.callback(lambda: reference)  # the object lives as long as the reference
    token: bytes = ray.cloudpickle.dumps(reference)
    return token


def _get(token: bytes, kept: list[Any]) -> Array:
    ray = import_module("ray")
    kept.append(_Closing(ray.shutdown))
    table: Array = ray.get(ray.cloudpickle.loads(token))
    return table


@dataclass
class _Closing:
    close: Callable[[], None]


MECHANISMS = {
    LOADING: Mechanism(lambda place, undo: str(place.file), lambda token, kept: numpy.load(token), (1, 1)),
    OURS: Mechanism(_save, lambda token, kept: mshare.numpy.load(token)),
    "multiprocessing.shared_memory": Mechanism(_share, _attach_shared),
    'numpy.load(mmap_mode="r")': Mechanism(
        lambda place, undo: str(place.file), lambda token, kept: numpy.load(token, mmap_mode="r")
    ),
    "joblib, memmapped in /dev/shm": Mechanism(_dump, lambda token, kept: joblib.load(token, mmap_mode="r")),
    "torch.multiprocessing": Mechanism(
        _share_tensor, lambda token, kept: token.numpy(), package="torch", start=_import_torch, connect=_import_torch
    ),
    "Ray": Mechanism(_put, _get, package="ray", start=_start_ray, connect=_connect_ray),
    "pickle, through a pipe": Mechanism(lambda place, undo: numpy.load(place.file), lambda token, kept: token, (1, 4)),
}


@dataclass(frozen=True)
class Trial:
    """The figures of one mechanism in one run. Times are medians over the workers."""

    mechanism: str
    provide_s: float
    first_use_s: float
    whole_s: float
    memory_bytes: int


def _memory_bytes(pid: int) -> int:
    """Return the memory that a process has to answer for: its proportional set size, and its page tables."""
    try:
        pss = parse_fields_kb(Path(f"/proc/{pid}/smaps_rollup").read_bytes())["Pss"]
        return pss + parse_fields_kb(Path(f"/proc/{pid}/status").read_bytes())["VmPTE"]
    except (FileNotFoundError, ProcessLookupError, KeyError):  # a daemon's helper that has just ended
        return 0


def _below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [each for child in children for each in (child, *_below(child))]


def _work(pipe: Connection, mechanism: str, server: object) -> None:
    """Use the table as one worker: answer `ready`, take the table, and report times and memory when asked."""
    use = MECHANISMS[mechanism].use
    MECHANISMS[mechanism].connect(server)
    kept: list[Any] = []
    pipe.send("ready")
    pipe.recv()
    before = _memory_bytes(os.getpid())  # when all workers are there: they share the pages of libraries
    pipe.send("begin")
    started, token = pipe.recv()
    table = use(token, kept)
    picked = float(table[:: max(1, len(table) // PICKED)].sum())
    first = time.monotonic() - started
    whole = sum(float(table[start : start + _BLOCK].sum()) for start in range(0, len(table), _BLOCK))
    pipe.send((first, time.monotonic() - started, picked, whole))
    pipe.recv()
    pipe.send(_memory_bytes(os.getpid()) - before)
    pipe.recv()
    del table, token
    for block in kept:
        block.close()


def trial(name: str, place: Place, workers: int) -> Trial:
    """Measure one mechanism once."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as undo:
        server = MECHANISMS[name].start(place, undo)
        pipes, pids = [], []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, name, server))
            process.start()
            pids.append(process.pid)
            undo.callback(process.join)
            undo.callback(ours.close)
            pipes.append(ours)
        for word in ("ready", "begin"):
            assert [pipe.recv() for pipe in pipes] == [word] * workers
            if word == "ready":
                for pipe in pipes:
                    pipe.send("begin")
        gc.collect()
        providers = [os.getpid(), *([] if server is None else set(_below(os.getpid())).difference(pids))]
        before = sum(_memory_bytes(pid) for pid in providers)
        begun = time.monotonic()
        token = MECHANISMS[name].provide(place, undo)
        started = time.monotonic()
        for pipe in pipes:
            pipe.send((started, token))
        answers = [pipe.recv() for pipe in pipes]
        assert len({answer[2:] for answer in answers}) == 1, "the workers have different tables"
        for pipe in pipes:
            pipe.send("measure")
        memory = sum(pipe.recv() for pipe in pipes) + sum(_memory_bytes(pid) for pid in providers) - before
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


def markdown(
    rows: Sequence[Trial],
    found: Mapping[str, Any],
    size: int,
    workers: int,
    runs: int,
    missing: Mapping[str, str] | None = None,
) -> str:
    """Return the report. `missing`: the mechanisms that did not run, with the reasons. Pure."""
    of = {row.mechanism: row for row in rows}
    loading, ours = of[LOADING], of[OURS]
    lines = [
        f"# {workers} workers share a table of {format_size(size)}",
        "",
        f"`make bench-first-use`: medians over {runs} runs, in which all mechanisms take turns. The workers are new",
        "processes that have imported what they need, and start at the same moment. First use: the table is there and",
        "1,000 rows of it are read. Whole: all rows are read. Memory: growth of PSS and page tables, over all workers,",
        "the process that provides the table and the mechanism's daemons, when all rows have been read. The file is in",
        "the page cache. Without `SIZE=` the table has 2 GiB.",
        "",
        machine.line(found),
        ", ".join(f"{name} {found[name]}" for name in PACKAGES) + f", load average {found['load_1min']:.1f}.",
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
    lines += [f"| {name} | not run: {reason} | | | | | |" for name, reason in (missing or {}).items()]
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
joblib writes the array into a file of its own format in /dev/shm and maps that, as `joblib.Parallel` does. Ray's
cluster runs, and the workers are connected to it, before the times begin. PSS counts a page that several processes map
once, in equal parts.
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
    reasons = {name: each.missing(options.size, options.workers, available) for name, each in MECHANISMS.items()}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    names = [name for name in MECHANISMS if name not in missing]
    if LOADING not in names:
        parser.error(f"{LOADING} {missing[LOADING]}: use a smaller --size")
    found = machine.facts(("mshare", *PACKAGES))
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
    document |= {"trials": [asdict(each) for each in trials], "missing": missing}
    page = markdown(medians(trials), found, options.size, options.workers, options.runs, missing)
    output.write(options, document, page)


if __name__ == "__main__":
    main()
