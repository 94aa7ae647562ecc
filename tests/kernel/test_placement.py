"""`numa=`: the nodes of a region's pages, on a machine with several nodes (`python3 -m vm test --numa 2`).

The oracle is move_pages(2), asked here about pages that this test has touched itself. `make test-numa-vm` runs these.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import mshare
from mshare.__main__ import main
from mshare._core import extent
from mshare._core.geometry import PAGE, PMD
from mshare._core.linux import mempolicy
from mshare.testing.conformance import backend_of, smaps_of
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER

from . import oracle

pytestmark = [pytest.mark.timeout(600), pytest.mark.only_if(oracle.NODES > 1)]
BLOCKS = 8
SIZE = BLOCKS * PMD
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
BALANCING = Path("/proc/sys/kernel/numa_balancing")


@pytest.fixture(autouse=True)
def no_balancing() -> Iterator[None]:
    """The kernel moves no page to the processor that uses the page."""
    before = BALANCING.read_text()
    BALANCING.write_text("0")
    yield
    BALANCING.write_text(before)


@pytest.fixture(params=["msharefs", "hugetlb", "thp", "shm"])
def backend(request: pytest.FixtureRequest, world: Path) -> Iterator[str]:
    """Each backend in turn, with a world in which it works. Each node has free huge pages."""
    name = str(request.param)
    mounts = {"msharefs": ["-t", "msharefs"], "hugetlb": ["-t", "hugetlbfs", "-o", "pagesize=2M"]}
    before = POOL.read_text()
    if name in mounts:
        (world / name).mkdir()
        subprocess.run(["mount", *mounts[name], "none", str(world / name)], check=True)
    if name == "hugetlb":
        POOL.write_text(str(2 * (BLOCKS + 4)))
    yield name
    POOL.write_text(before)
    if name in mounts:
        subprocess.run(["umount", str(world / name)], check=True)


def nodes(region: mshare.Region, start: int = 0, end: int = SIZE) -> list[int]:
    """Return the node of each page of a range, which has its memory."""
    unit = backend_of(region.backend).capabilities.file_unit
    for offset in range(start, end, unit):
        region.buf[offset]
    return mempolicy.nodes_of(range(region.addr + start, region.addr + end, unit))


def assert_spread(found: list[int], backend: str) -> None:
    """All nodes have as much, in turn, by pages of the leaf size.

    On msharefs the page tables that the thread makes in between take their turns as well.
    """
    if backend == "msharefs":
        counts = Counter(found)
        assert set(counts) == set(range(oracle.NODES))
        assert max(counts.values()) - min(counts.values()) < len(found) / 50
        return
    assert Counter(found) == {node: len(found) // oracle.NODES for node in range(oracle.NODES)}
    leaf = backend_of(backend).capabilities.leaf_size // backend_of(backend).capabilities.file_unit
    firsts = found[::leaf]
    assert all(one != other for one, other in pairwise(firsts))


@pytest.mark.parametrize("node", range(oracle.NODES))
def test_all_memory_of_a_region_lies_on_one_node(backend: str, node: int) -> None:
    before = mempolicy._get(0)[0]
    with mshare.create("r", SIZE, backend=backend, numa=node) as region:
        assert set(nodes(region)) == {node}
        assert extent.by_node("r") == {node: region.resident()}
        region.discard(PMD, 4 * PMD)
        other = (node + 1) % oracle.NODES
        region.populate(0, 6 * PMD, numa=other)
        assert set(nodes(region, PMD, 5 * PMD)) == {other}
        assert set(nodes(region, 5 * PMD)) == {node}, "memory that was there has not moved"
        assert extent.by_node("r") == {node: region.resident() - 4 * PMD, other: 4 * PMD}
        if backend == "thp":
            assert smaps_of(region.addr)["ShmemPmdMapped"] == SIZE
    mshare.unlink("r")
    assert mempolicy._get(0)[0] == before


def test_memory_is_spread_over_all_nodes(backend: str) -> None:
    with mshare.create("r", SIZE, backend=backend, numa="interleave") as region:
        assert_spread(nodes(region), backend)
        if backend == "thp":
            assert smaps_of(region.addr)["ShmemPmdMapped"] == SIZE
    mshare.unlink("r")


def test_populated_memory_is_spread_over_all_nodes(backend: str) -> None:
    with mshare.create("r", SIZE, backend=backend, reserve=False) as region:
        region.populate(PMD, 4 * PMD, numa="interleave")
        assert_spread(nodes(region, PMD, 5 * PMD), backend)
        if backend == "thp":
            assert smaps_of(region.addr)["ShmemPmdMapped"] == 4 * PMD
    mshare.unlink("r")


def test_the_policy_of_the_thread_counts_without_an_argument(backend: str) -> None:
    """As of a program under numactl."""

    def spread() -> None:
        with mshare.create("r", SIZE, backend=backend) as region:
            assert_spread(nodes(region), backend)
        mshare.unlink("r")

    mempolicy.under(mempolicy.INTERLEAVE, range(oracle.NODES), spread)


def test_a_node_that_is_full_is_an_error_and_nothing_is_taken(backend: str) -> None:
    """The other node has the memory."""
    room = backend_of(backend).space(1).free_bytes // PMD * PMD
    assert backend_of(backend).space().free_bytes > room + 2 * PMD
    with pytest.raises(mshare.NoSpaceError, match="node 1"):
        mshare.create("r", room + 2 * PMD, backend=backend, numa=1)
    with mshare.create("r", room + 2 * PMD, backend=backend, reserve=False) as region:
        before = region.resident()
        with pytest.raises(mshare.NoSpaceError, match="node 1"):
            region.populate(numa=1)
        assert region.resident() == before
        region.populate(0, 2 * PMD, numa=1)
        assert set(nodes(region, 0, 2 * PMD)) == {1}
    mshare.unlink("r")


def test_stat_shows_the_nodes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "r", "16M", "--backend", "shm", "--numa", "1"]) == 0
    assert main(["stat", "r", "--nodes"]) == 0
    shown = capsys.readouterr().out
    assert "node 1" in shown
    assert "node 0" not in shown
    mshare.unlink("r")


def test_pages_that_nobody_has_touched_have_a_node(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On shm in several looks, as at a region of several GiB: tmpfs tells such pages as holes."""
    if backend == "shm":
        monkeypatch.setattr(extent, "PUD", PMD)
    with mshare.create("r", SIZE + PAGE, backend=backend, numa=1) as region:
        assert extent.by_node("r") == {1: region.resident()}
        if backend == "hugetlb":
            region.discard(0, PMD)
            assert extent.by_node("r") == {extent.UNKNOWN: region.resident()}
    mshare.unlink("r")


def test_a_look_at_a_stranger_s_region_takes_no_memory(world: Path) -> None:
    """To a mere reader mincore(2) says that all pages are there."""
    with mshare.create("r", SIZE, backend="shm", reserve=False, mode=0o444) as region:
        region.populate(PMD, PMD, numa=1)
        before = region.resident()
        assert extent.by_node("r")[1] >= PMD
        seen = in_child(lambda: list(extent.by_node("r").items()), uid=STRANGER).value
        assert seen == [[extent.UNKNOWN, before]]
        assert region.resident() == before
    mshare.unlink("r")
