"""A real database: the cost of its page tables, the advice for it, and the gain from that advice."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.cluster import Cluster
from mshare._core.backends import ALL
from mshare._core.linux.proc import memory_fields, process_ids, refresh_counters, status_fields
from mshare._tools.collect import collect
from mshare._tools.scan.advice import Advice, judge
from mshare._tools.scan.show import label
from mshare._tools.scan.survey import ObjectUsage, survey
from tests.helpers.worlds import needs_root

pytestmark = pytest.mark.machine

CLIENTS = 50
SHARED_BUFFERS = 1 << 30
TABLE = """
create extension pg_prewarm;
create unlogged table filler (pad bytea);
alter table filler alter column pad set storage plain;
insert into filler select convert_to(repeat('x', 7500), 'UTF8') from generate_series(1, 120000);
"""
READ_ALL = "set max_parallel_workers_per_gather = 0; select count(*) from filler where get_byte(pad, 7499) > 1;"
"""One row fills a buffer of 8 KiB: its header is in the first page of 4 KiB, its last byte in the second. Both are
touched, and nothing else is read: 50 clients that count all characters take minutes on a slow machine."""


@contextmanager
def clients(server: Cluster) -> Iterator[list[subprocess.Popen[str]]]:
    """Connect all clients, which have done nothing, for the time of a `with` block."""
    with ExitStack() as stack:
        connected = [stack.enter_context(server.client()) for _ in range(CLIENTS)]
        everyone(connected, "select 1;", "1")
        yield connected
        for client in connected:
            assert client.stdin is not None
            client.stdin.close()


def everyone(connected: list[subprocess.Popen[str]], sql: str, expected: str) -> None:
    """Have every client execute `sql` at the same time, and wait for the answers."""
    for client in connected:
        assert client.stdin is not None
        client.stdin.write(sql + "\n")
        client.stdin.flush()
    for client in connected:
        assert client.stdout is not None
        assert client.stdout.readline() == expected + "\n"


def shared_memory(postmaster: int) -> tuple[ObjectUsage, Advice | None]:
    """Return scan's figures of the server's shared memory, and the advice."""
    snapshot = collect()
    found = survey(snapshot)
    usage = next(
        each for each in found.usages if each.shared and each.size > SHARED_BUFFERS and postmaster in each.by_process
    )
    verdict = judge(snapshot, found, ALL)
    advice = next((each for each in verdict.advice if label(usage.object) in each.objects), None)
    return usage, advice


def page_tables(postmaster: int) -> int:
    """Return the machine's page tables in bytes, without those of processes that are not the server's."""
    assert refresh_counters()
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    total = memory_fields()["PageTables"]
    return total - sum(vmpte(pid) for pid in process_ids() if pid != postmaster and str(pid) not in children)


def vmpte(pid: int) -> int:
    try:
        return status_fields(pid).get("VmPTE", 0)
    except OSError:  # gone since
        return 0


def load(server: Cluster) -> tuple[ObjectUsage, Advice | None, int]:
    """Have all clients read all of the shared buffers. Return scan's figures then, its advice, and the growth of the
    server's part of `PageTables` by the reading."""
    server.psql("select pg_prewarm('filler')")
    with clients(server) as connected:
        before = page_tables(server.pid)
        everyone(connected, READ_ALL, "120000")
        grown = page_tables(server.pid) - before
        return *shared_memory(server.pid), grown


@needs_root
def test_the_advice_for_postgresql_does_what_it_says(grow_pool: Callable[[int], int]) -> None:
    settings = {"shared_buffers": "1GB", "huge_pages": "off", "max_connections": "100", "autovacuum": "off"}
    with Cluster(settings) as server:
        server.psql(TABLE)
        server.psql("checkpoint")
        usage, advice, grown = load(server)
        assert usage.object is not None
        assert usage.object.leaves == (4096,)
        assert usage.processes >= CLIENTS
        assert abs(usage.now.likely - grown) <= 0.1 * grown
        assert usage.now.lower <= usage.now.likely <= usage.now.upper

        assert advice is not None
        assert advice.title == "PostgreSQL's shared memory"
        remedy = advice.remedies[0]
        needed = int(server.psql("show shared_memory_size_in_huge_pages"))
        assert needed <= remedy.huge_pages <= 1.05 * needed
        assert any("huge_pages" in command for command in remedy.commands)

        server.stop()
        assert grow_pool(remedy.huge_pages) == remedy.huge_pages
        server.start({"huge_pages": "on"})
        after, advice_after, grown_after = load(server)
    assert after.object is not None
    assert after.object.leaves == (2 << 20,)
    assert advice_after is None
    # The prediction and the result agree: of 100 MiB, all but a few KiB per process are saved.
    assert remedy.predicted <= 0.02 * usage.now.likely
    assert after.now.likely <= 2 * remedy.predicted
    assert abs((grown - grown_after) - remedy.saving) <= 0.1 * remedy.saving
