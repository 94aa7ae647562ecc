"""Page tables by arithmetic, against counting table by table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._core.backends import ALL
from mshare._core.errors import InvalidSizeError
from mshare._core.geometry import PAGE, PGD, PMD, PUD, WINDOW
from mshare._core.units import GIB
from mshare._tools.plan import MOST_PROCESSES, plan, plan_json, plan_notes, plan_table

sizes = st.builds(lambda blocks, more: max(1, blocks * PMD + more), st.integers(0, 1100), st.integers(-5000, 5000))


def count_tables(backend: str, size: int, processes: int) -> tuple[int, int]:
    """Return (last-level, all) table pages of all processes: walk the 2 MiB blocks and note each table that is used."""
    page = PMD if backend == "hugetlb" else PAGE
    mapped = -(-size // page) * page
    start, end = WINDOW[0], WINDOW[0] + mapped
    leaf, upper = set(), set()
    for process in range(processes):
        for addr in range(start, end, PMD):
            whole_block = addr + PMD <= end
            whole_unit = addr // PUD * PUD + PUD <= end
            shared = backend == "msharefs" or (backend == "hugetlb" and whole_unit)
            owner = -1 if shared else process
            middle = ("pmd", owner, addr // PUD)
            if backend in ("shm", "msharefs") or not whole_block:
                leaf.add(("pte", owner, addr // PMD))
                upper.add(middle)
            else:
                leaf.add(middle)
            upper.add(("pud", process, addr // PGD))
    return len(leaf), len(leaf | upper)


@given(sizes, st.integers(1, 3))
def test_the_formula_counts_what_counting_counts(size: int, processes: int) -> None:
    for backend, cost in plan(size, processes, ALL).costs:
        leaf, everything = count_tables(backend.name, size, processes)
        assert cost.leaf_total == leaf * PAGE, cost
        assert cost.all_total == everything * PAGE, cost


@given(sizes)
def test_hugetlb_needs_room_for_the_record(size: int) -> None:
    pages = plan_json(plan(size, 1, ALL))["huge_pages"]
    assert (pages - 1) * PMD < size + PAGE <= pages * PMD


def test_the_database_of_the_proposal() -> None:
    found = plan(300 * GIB, 1500, reversed(ALL))
    shm, thp, hugetlb, msharefs = (cost for _, cost in found.costs)
    assert shm.leaf_total == 300 * GIB // 4096 * 8 * 1500
    assert "878 GiB" in plan_table(found).rows[0]
    assert thp.leaf_process == hugetlb.leaf_process == hugetlb.leaf_total == 300 * PAGE
    assert (msharefs.leaf_process, msharefs.all_process) == (0, PAGE)
    assert msharefs.leaf_total == shm.leaf_process
    assert hugetlb.huge_pages == 153_601
    assert any("sysctl vm.nr_hugepages=153601" in note for note in plan_notes(found))
    assert plan_json(found)["backends"][0]["leaf_total"] == 943_718_400_000


@pytest.mark.parametrize(
    ("size", "processes"), [(0, 1), (-1, 1), (1, 0), (1, -1), (1 << 47, 1), (1, MOST_PROCESSES + 1)]
)
def test_what_makes_no_sense(size: int, processes: int) -> None:
    with pytest.raises(InvalidSizeError):
        plan(size, processes, ALL)
