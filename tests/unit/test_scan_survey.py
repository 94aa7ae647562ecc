"""The gain from sharing, if processes map different parts of one object: made-up snapshots, sums by hand."""

from __future__ import annotations

import pytest

from mshare._core.geometry import PAGE, PMD, PUD
from mshare._tools.scan.groups import groups
from mshare._tools.scan.snapshot import Area, Filled, Kind, Object, Process, Snapshot, System
from mshare._tools.scan.survey import Bytes, ObjectUsage, survey

BASE = 0x3000_0000_0000


def usage(kind: Kind, *processes: tuple[Area, tuple[tuple[int, int, int], ...]], exact: bool = True) -> ObjectUsage:
    """Return a survey's figures of one object that each of `processes` maps by one area, filled in these blocks."""
    snapshot = machine(kind, *processes, exact=exact)
    (found,) = survey(snapshot).usages
    return found


def machine(
    kind: Kind, *processes: tuple[Area, tuple[tuple[int, int, int], ...]], exact: bool = True, vmpte: int = 1000 * PAGE
) -> Snapshot:
    thing = Object(kind, 1, 1, 0, "/thing", False, PMD if kind == "hugetlb" else PAGE)
    found = []
    for number, (mapped, filled) in enumerate(processes):
        there = tuple(Filled(mapped.start + start, mapped.start + end, 0, leaf) for start, end, leaf in filled)
        found.append(Process(1 + number, "made", 0, "/", 0, vmpte, (mapped,), there if exact else None))
    return Snapshot(0.0, System("made", "6", {}, {}, ()), (thing,), tuple(found), {}, 0, exact, False)


def area(size: int, *, offset: int = 0, shared: bool = True, addr: int = BASE) -> Area:
    return Area(addr, addr + size, offset, 0, shared, True)


def test_parts_that_do_not_overlap_save_nothing_when_shared() -> None:
    part = 64 << 20
    whole = [(area(8 * part), ((number * part, (number + 1) * part, PAGE),)) for number in range(8)]
    found = usage("tmpfs", *whole)
    own = 32 + 2
    assert found.now.likely == 8 * own * PAGE
    costs = found.what_if()
    assert costs is not None
    assert costs.shared == (8 * 32 + 1 + 8) * PAGE


def test_private_mappings_cannot_share() -> None:
    size = 128 << 20
    private = [(area(size, shared=False), ((0, size, PAGE),)) for _ in range(20)]
    snapshot = machine("file", *private, (area(PAGE), ((0, PAGE, PAGE),)))
    found = survey(snapshot)
    (one,) = found.usages
    assert one.sharers == {21}
    costs = one.what_if()
    assert costs is not None
    assert costs.shared == 20 * (64 + 2) * PAGE + 2 * PAGE + PAGE  # and the one: a PTE, a PMD and a PUD page
    (group,) = groups(snapshot, found, "command")
    assert group.shared == 3 * PAGE


def test_what_is_reserved_and_not_there_is_not_counted() -> None:
    found = survey(machine("memfd", (area(100 * PUD), ()), exact=False, vmpte=10 * PAGE)).usages[0]
    costs = found.what_if()
    assert costs is not None
    assert max(costs) <= 11 * PAGE


@pytest.mark.parametrize("processes", [1, 8])
def test_huge_pages_with_holes_are_one_unit(processes: int) -> None:
    """Two ranges in one GiB are one PMD page."""
    holes = tuple((block, block + PMD, PMD) for block in range(0, 8 * PMD, 2 * PMD))
    found = usage("hugetlb", *[(area(PUD), holes)] * processes)
    assert found.now.likely == PAGE + processes * PAGE
    costs = found.what_if(1000)
    assert costs is not None
    assert costs.now == costs.shared == costs.leaves_2m == PAGE + 1000 * PAGE


def test_no_more_is_counted_twice_than_there_is() -> None:
    """The object is mapped and not touched. Nothing was walked, so every GiB might have a table."""
    snapshot = machine("hugetlb", *[(area(300 * PUD), ())] * 50, exact=False, vmpte=10 * PAGE)
    totals = survey(snapshot).totals
    assert totals.counted_twice <= totals.processes


def test_a_region_of_msharefs_has_its_tables_once() -> None:
    size = 4 << 20
    found = usage("msharefs", *[(area(PUD), ((0, size, PAGE),))] * 10)
    assert found.now.likely == 3 * PAGE + 10 * PAGE
    costs = found.what_if(100)
    assert costs is not None
    assert costs.now == costs.shared == 3 * PAGE + 100 * PAGE
    assert costs.leaves_2m == 200 * PAGE


def test_the_total_of_bytes_is_the_sum_of_each_bound() -> None:
    assert Bytes.total([Bytes(1, 2, 3), Bytes(10, 20, 30)]) == Bytes(11, 22, 33)
    assert Bytes.total([]) == Bytes(0, 0, 0)
