"""`mshare collapse` on PostgreSQL while all its clients are busy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.cluster import Cluster, binaries
from benchmarks.postgres_servers import shmem_enabled
from mshare._core.linux.proc import status_fields
from mshare._core.units import MIB
from tests.helpers.worlds import needs_root

pytestmark = [pytest.mark.machine, needs_root]

CLIENTS = 20
SCALE = 50
"""750 MB of data and index."""


@contextmanager
def busy_clients(server: Cluster) -> Iterator[subprocess.Popen[str]]:
    """Keep all clients busy for the time of a `with` block. Standard error has a line of progress each second."""
    where = {"PGHOST": str(server.directory), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    command = [str(binaries() / "pgbench"), "-S", "-n", "-M", "prepared", "-P", "1", "-T", "3600"]
    command += ["-c", str(CLIENTS), "-j", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **where}) as running:
        try:
            yield running
        finally:
            running.kill()


def progress(running: subprocess.Popen[str]) -> str:
    """Wait for the next line of progress, in which no transaction has failed. An error would be a line of its own."""
    assert running.stderr is not None
    line = running.stderr.readline()
    assert re.match(r"progress: .* 0 failed$", line), line
    return line


def clients_vmpte(server: Cluster) -> dict[int, int]:
    """Return the page tables of the clients' processes."""
    rows = server.psql(
        "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    return {pid: status_fields(pid)["VmPTE"] for pid in map(int, rows.split())}


@pytest.mark.timeout(300)
def test_a_busy_server_loses_its_page_tables_and_no_transaction() -> None:
    settings = {"shared_buffers": "1GB", "huge_pages": "off", "autovacuum": "off", "checkpoint_timeout": "1h"}
    with Cluster(settings) as server:
        server.run_program("pgbench", "-i", "-q", "-s", str(SCALE))
        server.psql("create extension pg_prewarm")
        server.stop()
        with shmem_enabled("advise"):  # the kernel then aligns what is mapped
            server.start()
        for relation in ("pgbench_accounts", "pgbench_accounts_pkey"):
            server.psql(f"select pg_prewarm('{relation}')")
        with busy_clients(server) as running:
            while True:
                line = progress(running)
                if line.startswith("progress:") and len(clients_vmpte(server)) == CLIENTS:
                    before = clients_vmpte(server)
                    if min(before.values()) > 1.5 * MIB:
                        break
            done = subprocess.run(
                [sys.executable, "-m", "mshare", "collapse", "--pid", str(server.pid), "--max-cpu", "100", "--json"],
                capture_output=True,
                text=True,
                check=False,
            )
            after = clients_vmpte(server)
            for _ in range(3):
                progress(running)
            later = clients_vmpte(server)
        assert server.psql("select count(*), sum(abalance) from pgbench_accounts") == f"{SCALE * 100_000}|0"
    assert (done.returncode, done.stderr) == (0, "")
    said = next(each for each in json.loads(done.stdout)["objects"] if each["kind"] == "anonymous")
    assert said["result"]["collapsed"] > 300
    assert sum(after.values()) < sum(before.values()) / 5
    assert sum(later.values()) < sum(before.values()) / 5  # the clients have touched it again
    assert before.keys() == after.keys() == later.keys()
    assert set(map(str, before)) <= set(said["result"]["vmpte_after"])
    assert sum(said["result"]["vmpte_after"].values()) < sum(said["result"]["vmpte_before"].values()) / 5
