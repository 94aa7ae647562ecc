"""One copy per host of a Dask cluster, beside scatter and beside a copy in each worker: `python -m benchmarks.replicas
[--size 1G]`, or `make bench-dask`.

A table of 8-byte numbers lies in a file. A new local cluster, whose workers are processes of one host, gets the table
in one way, and then each worker adds up all rows and keeps the table. Ready: from the call until tasks can use the
table. Whole: from the call until all workers have added up all rows. Memory: the growth of PSS and of page tables, over
all workers and the process of client and scheduler, while all workers have the table. The ways take turns in each run;
figures are medians.
May depend on: machine, output, procfs, units, mshare.dask, numpy, distributed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy
from distributed import Client, LocalCluster, get_worker

import mshare.dask
from mshare._core.procfs import parse_fields_kb
from mshare._core.units import format_size, format_time, parse_size

from . import machine, output

WORKERS = 4
OURS, SCATTER, LOADING = "mshare.dask.replicate", "client.scatter(broadcast=True)", "numpy.fromfile in each worker"
NAME = f"bench-replicas-{os.getpid()}"
Array = numpy.ndarray[Any, numpy.dtype[Any]]


@dataclass(frozen=True)
class Way:
    """A way to give all workers a table."""

    provide: Callable[[Client, Path], Any]
    """Make the table ready and return what tasks are given."""
    use: Callable[[Any], Array]
    """Return the table in a task."""
    end: Callable[[Client], None] = lambda client: None
    """Undo what `provide` has done beyond the cluster."""


def _replicate(client: Client, file: Path) -> str:
    mshare.dask.replicate(client, NAME, file)
    return NAME


def _attached(name: str) -> Array:
    region = mshare.dask.attach(name)
    return region.ndarray("u8", region.size // 8)


def _scatter(client: Client, file: Path) -> Any:
    return client.scatter(numpy.fromfile(file, "u8"), broadcast=True)  # type: ignore[no-untyped-call]


WAYS = {
    LOADING: Way(lambda client, file: str(file), lambda path: numpy.fromfile(path, "u8")),
    SCATTER: Way(_scatter, lambda array: array),
    OURS: Way(_replicate, _attached, lambda client: mshare.dask.drop(client, NAME)),
}


@dataclass(frozen=True)
class Trial:
    """The figures of one way in one run."""

    way: str
    ready_s: float
    whole_s: float
    memory_bytes: int


def _use(given: Any, way: str) -> int:
    """Use the table in a task, and keep it. Return the sum of all rows."""
    table = WAYS[way].use(given)
    get_worker().benchmark = table  # type: ignore[attr-defined]
    return int(table.sum(dtype="u8"))


def _memory_bytes(pids: Sequence[int]) -> int:
    """Return the memory that the processes have to answer for: their proportional set size, and their page tables."""
    places = [Path(f"/proc/{pid}") for pid in pids]
    pss = sum(parse_fields_kb((place / "smaps_rollup").read_bytes())["Pss"] for place in places)
    return pss + sum(parse_fields_kb((place / "status").read_bytes())["VmPTE"] for place in places)


def trial(name: str, file: Path, workers: int) -> tuple[Trial, int]:
    """Measure one way once. Return the figures, and the sum of all rows."""
    way = WAYS[name]
    with ExitStack() as undo:
        cluster = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=":0", local_directory=file.parent
        )
        undo.callback(cluster.close)
        client = undo.enter_context(Client(cluster))  # type: ignore[no-untyped-call]
        pids = [os.getpid(), *client.run(os.getpid).values()]
        client.run(__import__, "benchmarks.replicas")
        gc.collect()
        before = _memory_bytes(pids)
        begun = time.monotonic()
        undo.callback(way.end, client)
        given = way.provide(client, file)
        ready = time.monotonic()
        addresses = list(client.scheduler_info(n_workers=-1)["workers"])
        tasks = [client.submit(_use, given, name, workers=[address], pure=False) for address in addresses]
        sums = set(client.gather(tasks))
        whole = time.monotonic()
        gc.collect()
        memory = _memory_bytes(pids) - before
        assert len(sums) == 1, "the workers have different tables"
        del given, tasks
        return Trial(name, ready - begun, whole - begun, memory), sums.pop()


def medians(trials: Sequence[Trial]) -> list[Trial]:
    """Return the median of each figure by way."""
    found = []
    for name in WAYS:
        own = [each for each in trials if each.way == name]
        ready, whole, memory = (
            median(values) for values in zip(*(tuple(asdict(t).values())[1:] for t in own), strict=True)
        )
        found.append(Trial(name, ready, whole, int(memory)))
    return found


def markdown(rows: Sequence[Trial], found: Mapping[str, Any], size: int, workers: int, runs: int) -> str:
    """Return the report. Pure."""
    of = {row.way: row for row in rows}
    lines = [
        f"# {workers} workers of a Dask cluster on one host use a table of {format_size(size)}",
        "",
        f"`make bench-dask`: medians over {runs} runs, in which all ways take turns. Each trial has a new cluster,",
        "whose workers are processes of this machine. Ready: from the call until tasks can use the table. Whole: from",
        "the call until all workers have added up all rows. Memory: growth of PSS and page tables, over all workers",
        "and the process of client and scheduler, while all workers have the table. The file is in the page cache.",
        "Without `SIZE=` the table has 1 GiB.",
        "",
        machine.line(found),
        f"distributed {found['distributed']}, fsspec {found['fsspec']}, load average {found['load_1min']:.1f}.",
        *[f"Remark: {remark}." for remark in machine.remarks(found)],
    ]
    if found["load_1min"] > found["cpus"]:
        lines.append("Remark: other work ran beside the benchmark, and times are longer for it.")
    lines += [
        "",
        "| way | ready | whole | of loading's | memory | copies of the table |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = f"{format_time(row.ready_s * 1e9)} | {format_time(row.whole_s * 1e9)}"
        memory = f"{format_size(row.memory_bytes)} | {row.memory_bytes / size:.3f}"
        lines.append(f"| {row.way} | {times} | {row.whole_s / of[LOADING].whole_s:.2f} | {memory} |")
    ours, scatter, loading = of[OURS], of[SCATTER], of[LOADING]
    lines += [
        "",
        f"`scatter` takes {scatter.memory_bytes / ours.memory_bytes:.1f} times the memory of `replicate`, and a copy "
        f"in each worker {loading.memory_bytes / ours.memory_bytes:.1f} times.",
        f"Until all workers have added up all rows, `scatter` takes {scatter.whole_s / ours.whole_s:.1f} times as long",
        f"as `replicate`, and a copy in each worker {loading.whole_s / ours.whole_s:.1f} times.",
        "",
        _NOTES,
    ]
    return "\n".join(lines)


_NOTES = """\
`replicate` computes the SHA-256 of the bytes and compares the hosts. The other two ways check nothing. The memory of
`scatter` is without the client's own array, which the program has let go. PSS counts a page that several processes map
once, in equal parts.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("1G"), help="bytes of the table")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    output.add_options(parser)
    options = parser.parse_args()
    found = machine.facts(("mshare", "numpy", "distributed", "fsspec"))
    trials = []
    with tempfile.TemporaryDirectory(prefix="mshare-bench-") as folder:
        file = Path(folder, "table")
        numpy.random.default_rng(7).integers(0, 1 << 63, options.size // 8, dtype="u8").tofile(file)
        for run in range(options.runs):
            sums = set()
            for name in WAYS:
                result, total = trial(name, file, options.workers)
                trials.append(result)
                sums.add(total)
                print(f"run {run + 1}: {result}", file=sys.stderr)
            assert len(sums) == 1, "the ways give different tables"
    document = {"machine": found, "size_bytes": options.size, "workers": options.workers, "runs": options.runs}
    document["trials"] = [asdict(each) for each in trials]
    output.write(options, document, markdown(medians(trials), found, options.size, options.workers, options.runs))


if __name__ == "__main__":
    main()
