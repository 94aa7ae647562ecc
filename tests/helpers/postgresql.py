"""A real PostgreSQL server through all that its shared memory goes through: used on the host and in guests.

Source of the list: what PostgreSQL does with shared memory in src/backend/port/sysv_shmem.c and when a server process
dies (its parent process, the postmaster, ends all others and makes the memory again).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.cluster import Cluster
from tests.helpers.waiting import eventually

from .worlds import small_tmpfs

SETTINGS = {"shared_buffers": "160MB", "max_connections": "40", "huge_pages": "off", "autovacuum": "off"}
LIMIT_S = 120


def is_running(pid: int) -> bool:
    """Tell whether a process exists and has not ended. `Path.exists` raises ProcessLookupError for one that is just
    ending."""
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return False
    return True


def children(server: Cluster) -> list[int]:
    """Return the processes of the server, without the postmaster."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def said(server: Cluster) -> list[str]:
    """Return the lines of the preload library in the server's log."""
    return [line for line in (server.directory / "log").read_text().splitlines() if "mshare: postgres[" in line]


def works(server: Cluster) -> None:
    """pgbench with its own kinds of load; a parallel join, vacuum and index against their serial results."""
    server.run_program("pgbench", "--initialize", "--quiet", "--scale=3")
    server.run_program("pgbench", "--select-only", "--client=5", "--transactions=97")
    server.run_program("pgbench", "--client=5", "--transactions=53", "--no-vacuum")
    join = "select count(*), sum(a.abalance) from pgbench_accounts a join pgbench_accounts b on a.aid = b.aid + 1"
    serial = server.psql(f"set max_parallel_workers_per_gather = 0; {join}")
    parallel = (
        "set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; "
        "set parallel_tuple_cost = 0; "
    )
    assert "Gather" in server.psql(f"{parallel} explain {join}")
    assert server.psql(f"{parallel} {join}") == serial
    server.run_program(
        "psql", "-c", "set min_parallel_index_scan_size = 0", "-c", "vacuum (parallel 2) pgbench_accounts"
    )
    server.psql(
        "set max_parallel_maintenance_workers = 2; set min_parallel_table_scan_size = 0; "
        "create index by_balance on pgbench_accounts (abalance, aid)"
    )
    assert (
        server.psql("set enable_seqscan = off; select count(*) from pgbench_accounts where abalance < 1e9") == "300000"
    )


def answer(client: subprocess.Popen[str], sql: str) -> str:
    """Return the line with which a client of `Cluster.client` answers."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(sql + "\n")
    client.stdin.flush()
    return client.stdout.readline().rstrip("\n")


def survives_killed_backends(server: Cluster, times: int = 3) -> None:
    """`kill -9` of a server process, some times: each time the postmaster makes its shared memory again."""
    server.psql("create table if not exists kept (n int); insert into kept values (1)")
    rows = int(server.psql("select count(*) from kept"))
    for _ in range(times):
        client = server.client()
        backend = int(answer(client, "select pg_backend_pid();"))
        os.kill(backend, signal.SIGKILL)
        client.communicate()
        eventually(lambda: answers(server), "the server has not recovered")
        assert int(server.psql("select count(*) from kept")) == rows


def answers(server: Cluster) -> bool:
    """Tell whether the server takes a new connection."""
    with suppress(ChildProcessError):
        return server.psql("select 1") == "1"
    return False


def refuses_a_second_server(server: Cluster, first: dict[str, str], second: dict[str, str]) -> None:
    """Kill a postmaster while one of its processes lives on, remove postmaster.pid, and check that no second server
    starts on the same data. `first` and `second` are the variables of the two servers. When the orphan has gone, the
    server starts.
    """
    server.stop()
    server.environment = dict(first)
    server.start()
    client = server.client()
    orphan = int(answer(client, "select pg_backend_pid();"))
    os.kill(orphan, signal.SIGSTOP)  # else it notices that the postmaster has gone, and ends
    others = [pid for pid in children(server) if pid != orphan]
    server.stop(signal.SIGKILL)
    eventually(lambda: not any(map(is_running, others)), "processes of the server live on")
    (server.directory / "data" / "postmaster.pid").unlink(missing_ok=True)
    server.environment = dict(second)
    try:
        with pytest.raises(ChildProcessError, match="still in use"):
            server.start()
    finally:
        os.kill(orphan, signal.SIGKILL)
        client.communicate()
    eventually(lambda: not is_running(orphan), "the orphan lives on")
    server.start()
    assert server.psql("select 1") == "1"


def starts_and_stops_by_pg_ctl(server: Cluster) -> None:
    """`pg_ctl` start, restart, restart at once, stop; the variables reach the server through it."""
    server.stop()
    server.pg_ctl("start")
    for arguments in (("restart",), ("restart", "--mode=immediate")):
        assert answers(server)
        server.pg_ctl(*arguments)
    assert answers(server)
    server.pg_ctl("stop")
    assert not answers(server)


def segments(server: Cluster) -> list[str]:
    """Return the lines of /proc/sysvipc/shm about this server: PostgreSQL takes the number of the data directory's
    inode for a key."""
    key = os.stat(server.directory / "data").st_ino & 0xFFFFFFFF
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in lines if int(line.split()[0]) & 0xFFFFFFFF == key]


@contextmanager
def leaving_nothing(settings: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Cluster]:
    """Start a server whose /dev/shm is its own; check that the stopped server leaves neither objects nor segments."""
    with small_tmpfs(Path("/dev/shm"), "512m"):
        with Cluster(settings, environment) as server:
            assert segments(server), "a running server has a segment"
            yield server
            server.stop()
            assert segments(server) == []
        assert os.listdir("/dev/shm") == []
