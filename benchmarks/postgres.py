"""Unchanged PostgreSQL, 4 KiB pages against huge pages: `python -m benchmarks.postgres` (or `make bench-postgres`).

`pgbench -S` runs with ever more clients on prewarmed shared buffers. The runs show the cost of page tables and faults
for a real server, and the gain from huge pages. The benchmark needs PostgreSQL's programs with pg_prewarm. Huge pages
need root. The report is on stdout.

pgbench makes new connections for every run, and their processes have none of the shared buffers mapped. The first
seconds of a run are therefore page faults. Transactions are counted in the second half only. Faults and page tables are
the price, and are counted over the whole run.

May depend on: cluster, machine, output, pool, linux, measure, vm, units, geometry.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

from mshare._core.geometry import PMD
from mshare._core.linux import proc
from mshare._core.units import MIB, format_size, parse_size
from mshare.measure.cost import page_tables_bytes
from vm import markdown

from . import machine, output, pool
from .cluster import Cluster, binaries

_SCALE_BYTES = 15 * MIB
"""The memory of one unit of pgbench's scale: 100,000 rows and their index."""
_FILLED = 0.85
"""This part of the shared buffers is filled with data."""
_SAMPLE_S = 0.5
_WORKERS = 2
STOCK, HUGE = "huge_pages=off", "huge_pages=on"


@dataclass(frozen=True, slots=True)
class PgbenchRun:
    """One pgbench run."""

    setting: str
    clients: int
    tps: float
    """Transactions per second in the second half of the run: median of pgbench's progress reports."""
    latency_ms: float
    """Measured as `tps` is."""
    whole_tps: float
    """Transactions per second of the whole run, without connecting (pgbench)."""
    connect_ms: float
    """The time until all clients were connected (pgbench)."""
    page_tables_bytes: int
    """Largest growth of the whole machine's `PageTables` (/proc/meminfo) during the run."""
    vmpte_bytes: int
    """Largest sum of `VmPTE` of all server processes during the run. The sum counts shared tables in each process."""
    minor_faults: int
    """Growth of the server's `cminflt` (/proc/PID/stat): all faults of the processes that serve clients."""


_PROGRESS = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms", re.MULTILINE)


def _interval_s(seconds: int) -> int:
    return max(1, seconds // 10)


def parse_pgbench(text: str, seconds: int) -> dict[str, float]:
    """Return the figures of `PgbenchRun` that are in the output of pgbench 14 or later after a run of so many seconds.

    If no progress report lies in the second half, as in a run of one second, the figures of the whole run count.
    """
    if re.search(r"actually processed: 0$", text, re.MULTILINE):
        raise ValueError(f"no transaction within {seconds} s, the clients were still connecting: give --seconds more")
    found = {
        "whole_tps": r"^tps = ([\d.]+)",
        "latency_ms": r"^latency average = ([\d.]+) ms",
        "connect_ms": r"^initial connection time = ([\d.]+) ms",
    }
    values = {}
    for name, pattern in found.items():
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise ValueError(f"pgbench did not print {name}: {text[-300:]}")
        values[name] = float(match[1])
    reports = [tuple(map(float, report)) for report in _PROGRESS.findall(text)]
    steady = [report for report in reports if report[0] - _interval_s(seconds) >= seconds / 2 - 0.1]
    if not steady:
        return {**values, "tps": values["whole_tps"]}
    tps, latency = (median(report[index] for report in steady) for index in (1, 2))
    return {**values, "tps": tps, "latency_ms": latency}


def children_faults(stat: bytes) -> int:
    """Return `cminflt`, the minor faults of children that have been waited for, from the text of /proc/PID/stat."""
    return int(stat.rpartition(b")")[2].split()[8])


def _server_vmpte_bytes(server: int) -> int:
    total = 0
    for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        try:
            total += proc.status_fields(int(child)).get("VmPTE", 0)
        except OSError:  # the child has ended in the meantime
            continue
    return total


@contextmanager
def _pgbench(server: Cluster, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Give a running pgbench and the file with its output: progress is on standard error. pgbench ends with us."""
    environment = {**os.environ, "PGHOST": str(server.directory), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    with TemporaryFile("w+") as said:
        command = [str(binaries() / "pgbench"), *arguments]
        running = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            yield running, said
        finally:
            running.kill()
            running.wait()


def _bench(server: Cluster, setting: str, clients: int, seconds: int) -> PgbenchRun:
    stat = Path(f"/proc/{server.pid}/stat")
    before, faults = page_tables_bytes(), children_faults(stat.read_bytes())
    arguments = ["-S", "-n", "-M", "prepared", "-c", str(clients), "-j", str(_WORKERS), "-T", str(seconds)]
    arguments += ["-P", str(_interval_s(seconds))]
    tables, vmpte = 0, 0
    with _pgbench(server, *arguments) as (running, said):
        while running.poll() is None:
            tables = max(tables, page_tables_bytes() - before)
            vmpte = max(vmpte, _server_vmpte_bytes(server.pid))
            time.sleep(_SAMPLE_S)
        said.seek(0)
        text = said.read()
    if running.returncode:
        raise ChildProcessError(f"pgbench failed with status {running.returncode}: {text[-600:].strip()}")
    _wait_until_alone(server)
    return PgbenchRun(
        setting,
        clients,
        page_tables_bytes=tables,
        vmpte_bytes=vmpte,
        minor_faults=children_faults(stat.read_bytes()) - faults,
        **parse_pgbench(text, seconds),
    )


def _wait_until_alone(server: Cluster) -> None:
    """Wait until the server has reaped the processes of its clients. Their faults are then in the server's count."""
    deadline = time.monotonic() + 60
    others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    while server.psql(others) != "0" and time.monotonic() < deadline:
        time.sleep(0.1)


def measure(
    size_bytes: int, counts: Sequence[int], seconds: int, rounds: int
) -> tuple[list[PgbenchRun], list[str], str]:
    """Run pgbench with every number of clients, `rounds` times with either setting, in turns. Return the runs, notes
    about missing runs, and the server's version."""
    runs: list[PgbenchRun] = []
    missing: list[str] = []
    settings = {"shared_buffers": f"{size_bytes // MIB}MB", "max_connections": str(max(counts) + 20)}
    with Cluster({**settings, "huge_pages": "off", "checkpoint_timeout": "1h"}) as server:
        server.run_program("pgbench", "-i", "-q", "-s", str(max(1, int(size_bytes * _FILLED) // _SCALE_BYTES)))
        server.psql("create extension pg_prewarm")
        version = server.psql("show server_version")
        needed = int(server.psql("show shared_memory_size_in_huge_pages")) * PMD
        for number in range(rounds):
            for setting in (STOCK, HUGE) if number % 2 == 0 else (HUGE, STOCK):  # a drift affects both settings alike
                with pool.pages(needed) if setting == HUGE else nullcontext((1, "")) as (_, problem):
                    if problem:
                        missing.append(problem)
                        continue
                    server.stop()
                    server.start({"huge_pages": setting.partition("=")[2]})
                    for relation in ("pgbench_accounts", "pgbench_accounts_pkey"):
                        server.psql(f"select pg_prewarm('{relation}')")
                    for clients in counts:
                        runs.append(_bench(server, setting, clients, seconds))
                        print(runs[-1], file=sys.stderr, flush=True)
                    server.stop()
    return runs, sorted(set(missing)), version


def page(document: dict[str, Any], runs: Sequence[PgbenchRun]) -> str:
    """Return the report: medians by number of clients, and the ratio of huge pages to 4 KiB pages. Pure."""
    before, after = document["load_1min"]
    rounds = "one round, whose tps is one sample"
    if document["rounds"] > 1:
        rounds = f"medians of {document['rounds']} rounds with the settings in alternating order; in brackets the "
        rounds += "least and the most"
    busy = ": **above 1, so other work ran beside it**" if before > 1 else ""
    lines = ["# PostgreSQL: 4 KiB pages against huge pages", ""]
    lines += [
        f"`pgbench -S -M prepared`, shared buffers of {format_size(document['size_bytes'])}, prewarmed, "
        f"{document['seconds']} s a run, {rounds}. This is PostgreSQL without mshare: what any support for it must "
        "beat.",
        "",
        "A server process maps only what it has touched: page tables and faults grow with the length of a run, until "
        "every process has read all of the shared buffers. *tps* and *latency* are those of the second half of a run.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in document["machine"].items()]
    lines += [f"- {remark}" for remark in machine.remarks(document["machine"])]
    lines += [
        f"- command: `{document['command']}`",
        f"- load average at the start {before:.2f}{busy}; at the end (its own clients included) {after:.2f}",
    ]
    lines += [f"- not measured: {text}" for text in document["missing"]]
    headers = ("clients", "", "PageTables", "VmPTE, sum", "minor faults", "connecting", "latency", "tps")
    rows = []
    for clients in sorted({run.clients for run in runs}):
        for setting in (STOCK, HUGE):
            group = [run for run in runs if (run.clients, run.setting) == (clients, setting)]
            if group:
                cells = (
                    str(clients),
                    setting,
                    _spread([run.page_tables_bytes for run in group], lambda value: format_size(int(value))),
                    _spread([run.vmpte_bytes for run in group], lambda value: format_size(int(value))),
                    f"{median(run.minor_faults for run in group):,.0f}",
                    f"{median(run.connect_ms for run in group):,.0f} ms",
                    f"{median(run.latency_ms for run in group):.1f} ms",
                    _spread([run.tps for run in group], lambda value: f"{value:,.0f}"),
                )
                rows.append(cells)
    lines += ["", *markdown.table(headers, rows, right={*range(len(headers))} - {1})]
    compared = []
    for clients in sorted({run.clients for run in runs}):
        stock, huge = ([r for r in runs if (r.clients, r.setting) == (clients, setting)] for setting in (STOCK, HUGE))
        if stock and huge:
            compared.append([str(clients), *(_ratio(stock, huge, name) for name in _COMPARED)])
    lines += [
        "",
        "## Huge pages by 4 KiB pages",
        "",
        *markdown.table(["clients", "PageTables", "VmPTE, sum", "minor faults", "tps"], compared, right=range(5)),
        "",
        "PageTables is the whole machine's, with whatever else starts and ends meanwhile; VmPTE is the server's own, "
        "and counts tables that processes share in each of them.",
        "",
        "The columns are explained at `PgbenchRun` in `benchmarks/postgres.py`.",
    ]
    return "\n".join(lines) + "\n"


_COMPARED = ("page_tables_bytes", "vmpte_bytes", "minor_faults", "tps")


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return the median, and the least and the most if there are several."""
    middle = show(median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def _ratio(stock: Sequence[PgbenchRun], huge: Sequence[PgbenchRun], name: str) -> str:
    old, new = (median(getattr(run, name) for run in group) for group in (stock, huge))
    return f"{new / old:.3f}" if old > 0 else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; return 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.postgres", description=__doc__)
    parser.add_argument("--shared-buffers", type=parse_size, default=parse_size("2G"))
    parser.add_argument("--clients", default="50,100,200,400", help="numbers with commas between")
    parser.add_argument("--seconds", type=int, default=20, help="for one run")
    parser.add_argument("--rounds", type=int, default=3)
    output.add_options(parser)
    options = parser.parse_args(argv)
    pool.give_back_on_signals()
    load, facts = os.getloadavg()[0], machine.facts(("mshare",))
    counts = [int(count) for count in options.clients.split(",")]
    runs, missing, version = measure(options.shared_buffers, counts, options.seconds, options.rounds)
    document = {
        "machine": facts | {"postgresql": version},
        "command": shlex.join(["python", "-m", "benchmarks.postgres", *(sys.argv[1:] if argv is None else argv)]),
        "load_1min": [load, os.getloadavg()[0]],
        "size_bytes": options.shared_buffers,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "missing": missing,
    }
    text = page(document, runs)
    output.write(options, {**document, "runs": [asdict(run) for run in runs]}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
