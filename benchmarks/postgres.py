"""Unchanged PostgreSQL on 4 KiB pages, with `mshare run`, `mshare collapse` and huge pages: `make bench-postgres`.

`pgbench -S` runs with ever more clients on prewarmed shared buffers. The runs show the cost of page tables and faults
for a real server, and the gain from 2 MiB pages and shared page tables. The benchmark needs PostgreSQL's programs with
pg_prewarm. Huge pages and `mshare collapse` need root. The report is on stdout. The exit code is 1 if a target is
missed.

pgbench makes new connections for every run, and their processes have none of the shared buffers mapped. The first
seconds of a run are therefore page faults. Transactions are counted in the second half only. Faults and page tables are
the price, and are counted over the whole run.

May depend on: cluster, faults, leaves, machine, output, pool, postgres_page, postgres_servers, linux, measure, units,
geometry.
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
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO

from mshare._core.geometry import PMD
from mshare._core.linux import proc
from mshare._core.units import MIB, parse_size
from mshare.measure.cost import page_tables_bytes

from . import faults, leaves, machine, output, pool, postgres_servers
from .cluster import Cluster, binaries
from .postgres_page import COLLAPSE, HUGE, LATER, MSHAREFS, SETTINGS, PgbenchRun, Results, ServerStart, page, targets

_SCALE_BYTES = 15 * MIB
"""The memory of one unit of pgbench's scale: 100,000 rows and their index."""
_FILLED = 0.85
"""This part of the shared buffers is filled with data."""
_SAMPLE_S = 0.5
_WORKERS = 2
_DATA = ("pgbench_accounts", "pgbench_accounts_pkey")
_READ_ALL = """
set max_parallel_workers_per_gather = 0;
set jit = off;
select pg_backend_pid();
select sum(abalance) from pgbench_accounts;
"""


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


def _backend_faults(server: Cluster) -> tuple[int | None, int, str]:
    """Let a new process of the server read the whole table. Return its faults on shared memory, all its minor faults,
    and why the first are None."""
    span = leaves.shared_memory(server.pid).span
    try:
        with faults.traced(server.pid, span) as count:
            return *_read_all(server, count), ""
    except OSError as error:
        return None, _read_all(server, lambda _: 0)[1], f"faults by address: {error}"


def _read_all(server: Cluster, count: Callable[[int], int]) -> tuple[int, int]:
    """Connect, read the whole table, and return what `count` and /proc say about the server's process."""
    with server.client() as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(_READ_ALL)
        client.stdin.flush()
        pid = int(client.stdout.readline())
        client.stdout.readline()
        return count(pid), proc.minor_faults(pid)


class _Measurement:
    """The server with its data, and what was measured so far."""

    def __init__(self, server: Cluster, counts: Sequence[int], seconds: int) -> None:
        self.server, self.counts, self.seconds = server, counts, seconds
        self.runs: list[PgbenchRun] = []
        self.starts: list[ServerStart] = []
        self.missing: list[str] = []
        self.version = server.psql("show server_version")
        self._pool_bytes = int(server.psql("show shared_memory_size_in_huge_pages")) * PMD
        server.stop()

    def measure(self, setting: str) -> None:
        """Start the server in one of the ways, and run pgbench with every number of clients."""
        with postgres_servers.started(self.server, setting, self._pool_bytes) as (start_ms, problem):
            if problem:
                self.missing.append(problem)
                return
            began = time.perf_counter()
            for relation in _DATA:
                self.server.psql(f"select pg_prewarm('{relation}')")
            prewarm_ms = (time.perf_counter() - began) * 1000
            leaves_ms = self._leaves_ms(setting)
            found = None if setting in (HUGE, MSHAREFS) else leaves.leaves(self.server.pid)
            for clients in self.counts:
                self.runs.append(_bench(self.server, setting, clients, self.seconds))
                print(self.runs[-1], file=sys.stderr, flush=True)
            on_shared, minor, no_count = _backend_faults(self.server)
            self.missing += [no_count] if no_count else []
            huge = None if found is None else found.huge
            self.starts.append(ServerStart(setting, start_ms, prewarm_ms, leaves_ms, huge, on_shared, minor))
            print(self.starts[-1], file=sys.stderr, flush=True)

    def _leaves_ms(self, setting: str) -> float | None:
        """Let the data get its 2 MiB pages, if something beside the start of the server gives them."""
        took_ms, problem = None, ""
        if setting == LATER:
            took_ms, problem = postgres_servers.wait_for_leaves(self.server.pid)
        elif setting == COLLAPSE:
            took_ms, problem = postgres_servers.collapse(self.server.pid)
        self.missing += [problem] if problem else []
        return took_ms


def measure(size_bytes: int, counts: Sequence[int], seconds: int, rounds: int) -> tuple[Results, list[str], str]:
    """Run pgbench with every number of clients, `rounds` times in each of the ways, in turns. Return the records, notes
    about missing ones, and the server's version."""
    settings = {"shared_buffers": f"{size_bytes // MIB}MB", "max_connections": str(max(counts) + 20)}
    with Cluster({**settings, "huge_pages": "off", "checkpoint_timeout": "1h"}) as server:
        server.run_program("pgbench", "-i", "-q", "-s", str(max(1, int(size_bytes * _FILLED) // _SCALE_BYTES)))
        server.psql("create extension pg_prewarm")
        measurement = _Measurement(server, counts, seconds)
        for number in range(rounds):
            for setting in SETTINGS[:: -1 if number % 2 else 1]:  # a drift affects all settings alike
                measurement.measure(setting)
    results = Results(measurement.runs, measurement.starts)
    return results, sorted(set(measurement.missing)), measurement.version


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write; return 1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.postgres", description=__doc__)
    parser.add_argument("--shared-buffers", type=parse_size, default=parse_size("2G"))
    parser.add_argument("--clients", default="50,200", help="numbers with commas between")
    parser.add_argument("--seconds", type=int, default=20, help="for one run")
    parser.add_argument("--rounds", type=int, default=3)
    output.add_options(parser)
    options = parser.parse_args(argv)
    pool.give_back_on_signals()
    load, facts = os.getloadavg()[0], machine.facts(("mshare",))
    counts = [int(count) for count in options.clients.split(",")]
    results, missing, version = measure(options.shared_buffers, counts, options.seconds, options.rounds)
    document = {
        "machine": facts | {"postgresql": version},
        "command": shlex.join(["python", "-m", "benchmarks.postgres", *(sys.argv[1:] if argv is None else argv)]),
        "load_1min": [load, os.getloadavg()[0]],
        "size_bytes": options.shared_buffers,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "missing": missing,
    }
    found = list(targets(results, options.shared_buffers, timed="TCG" not in str(facts["cpu"])))
    records = {
        "runs": [asdict(run) for run in results.runs],
        "starts": [asdict(start) for start in results.starts],
        "targets": [target._asdict() for target in found],
    }
    output.write(options, {**document, **records}, page(document, results, machine.remarks(facts)))
    missed = [target for target in found if not target.met]
    for target in missed:
        print(f"bench-postgres: missed: {target.text}: {target.value}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
