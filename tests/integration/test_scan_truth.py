"""The figures of `mshare scan` about known mappings, against the processes' own measurements and /proc/meminfo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare._core.linux.pagemap import Scanner
from mshare._tools.collect import Choice, collect
from mshare._tools.collect import collector as collecting
from mshare._tools.scan.survey import ObjectUsage, survey
from tests.helpers.mappers import LONELY, PAGE, PMD, PUD, Mapped, Mapping, mapped

pytestmark = pytest.mark.machine

MIB = 1 << 20
KNOWN = {
    "small pages": Mapping(),
    "anywhere": Mapping(addr=0),
    "unaligned": Mapping(addr=LONELY + PMD - 3 * PAGE),
    "tmpfs": Mapping(kind="tmpfs"),
    "SysV": Mapping(kind="sysv"),
    "shared anonymous": Mapping(kind="anonymous", addr=LONELY),
    "file": Mapping(kind="file", size=16 * MIB),
    "read-only": Mapping(writable=False),
    "sparse": Mapping(size=2 * PUD, step=10 * MIB),
    "partly touched": Mapping(part=0.25),
    "untouched": Mapping(part=0.0),
    "inherited": Mapping(inherited=True, part=0.5),
    "collapsed": Mapping(collapse=True),
    "collapsed, partly touched": Mapping(collapse=True, size=PUD, part=1 / 16, step=PMD),
    "200 processes": Mapping(size=8 * MIB, processes=200),
}
HUGE = {
    "huge pages": Mapping(kind="hugetlb", size=16 * PMD, step=PMD),
    "huge pages, unaligned": Mapping(kind="hugetlb", size=16 * PMD, step=PMD, addr=LONELY + PUD - 3 * PMD),
    "huge pages, read-only": Mapping(kind="hugetlb", size=16 * PMD, step=PMD, writable=False),
}


@pytest.fixture(params=KNOWN | HUGE)
def known(request: pytest.FixtureRequest, tmp_path: Path, world: Path) -> Iterator[tuple[Mapping, Mapped]]:
    mapping = (KNOWN | HUGE)[request.param]
    if mapping.kind == "hugetlb":
        request.getfixturevalue("huge_pages")
    if mapping.kind in ("tmpfs", "file"):
        directory = world if mapping.kind == "tmpfs" else tmp_path
        mapping = Mapping(**{**mapping.__dict__, "path": str(directory / "data")})
    with mapped(mapping) as living:
        yield mapping, living


def usage_of(mapping: Mapping, living: Mapped, *, exact: bool) -> ObjectUsage:
    """Return the figures of a scan of these processes about their common object."""
    found = survey(collect(choice=Choice(pids=living.pids), exact=exact))
    kind = {"sysv": "SysV"}.get(mapping.kind, mapping.kind)
    (usage,) = [
        usage
        for usage in found.usages
        if usage.object is not None and usage.object.kind == kind and usage.size >= mapping.size
    ]
    assert sorted(usage.by_process) == list(living.pids)
    return usage


def shared_once(mapping: Mapping, living: Mapped) -> int:
    """Bytes that every process's VmPTE has and memory has once: PMD pages of whole, aligned GiB of huge pages."""
    units = mapping.size // PUD if mapping.kind == "hugetlb" and mapping.addr % PUD == 0 else 0
    return units * PAGE * (len(living.pids) - 1)


def test_a_known_mapping(known: tuple[Mapping, Mapped], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds contain the truth, a walk finds the truth within 5 %, and the leaves have the sizes that were made."""
    mapping, living = known
    truth = sum(living.growth) - shared_once(mapping, living)
    leaf = PMD if mapping.collapse or mapping.kind == "hugetlb" else PAGE

    bounded = usage_of(mapping, living, exact=False)
    assert bounded.now.lower <= truth <= bounded.now.upper
    assert bounded.now.lower <= bounded.now.likely <= bounded.now.upper
    assert bounded.object is not None
    if mapping.part == 1:  # a sample looks at 16 places
        assert bounded.object.leaves == (leaf,)

    for scanner in (Scanner, lambda: None):  # PAGEMAP_SCAN; pagemap and smaps, as before Linux 6.7
        monkeypatch.setattr(collecting, "Scanner", scanner)
        walked = usage_of(mapping, living, exact=True)
        assert walked.now.lower == walked.now.upper
        assert abs(walked.now.likely - truth) <= 0.05 * truth
        assert walked.object is not None
        assert walked.object.leaves == ((leaf,) if mapping.part else bounded.object.leaves[:0])


def test_most_of_the_machines_page_tables_are_explained() -> None:
    """100 processes with 2 MiB of page tables each. Other processes come and go between two scans, so the growth is
    looked at up to ten times."""

    def explained() -> float:
        before = survey(collect()).totals
        with mapped(Mapping(size=PUD, step=PMD, processes=100)):
            after = survey(collect()).totals
        assert after.page_tables > 100 * 2 * MIB
        return 1 - abs(after.unexplained - before.unexplained) / (100 * 2 * MIB)

    assert any(explained() >= 0.9 for _ in range(10))


def test_tables_that_huge_pages_share_are_counted_once(huge_pages: int) -> None:
    """8 GiB of huge pages, one page of each GiB there: in memory once, in every VmPTE. Other processes come and go
    between two scans, so the growth is looked at up to ten times."""
    units, processes = 8, 60
    mapping = Mapping(kind="hugetlb", size=units * PUD, step=PUD, processes=processes)
    twice = units * (processes - 1) * PAGE

    def agrees() -> bool:
        before = survey(collect()).totals
        with mapped(mapping) as living:
            after = survey(collect()).totals
            exact = usage_of(mapping, living, exact=True)
            some = survey(collect(choice=Choice(pids=living.pids))).totals
        assert some.counted_twice == twice
        assert sum(living.growth) == processes * (units + 1) * PAGE
        assert exact.now.likely == units * PAGE + processes * PAGE
        # The unexplained part grows by the topmost tables, if the kernel counts them, and not by tables that were
        # counted twice.
        grown = after.unexplained - before.unexplained
        return after.counted_twice - before.counted_twice == twice and abs(grown) <= twice / 2

    assert any(agrees() for _ in range(10))
