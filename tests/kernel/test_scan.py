"""`mshare scan` on this kernel: regions whose tables are shared, and page tables walked without PAGEMAP_SCAN (6.1)."""

import os

import pytest

from mshare._core.linux.proc import memory_fields, refresh_counters
from mshare._tools.collect import Choice, collect
from mshare._tools.scan.survey import ObjectUsage, survey
from tests.helpers.mappers import PAGE, PMD, PUD, Mapping, mapped

from . import mfs

PROCESSES = 11
MIB = 1 << 20


def page_tables() -> int:
    assert refresh_counters()
    return memory_fields()["PageTables"]


def entry_of(pids: tuple[int, ...], kind: str, exact: bool) -> ObjectUsage:
    found = survey(collect(choice=Choice(pids=pids), exact=exact))
    (usage,) = [each for each in found.usages if each.object is not None and each.object.kind == kind]
    assert set(usage.by_process) == set(pids)
    return usage


@pytest.mark.parametrize("writable", [True, False])
def test_tables_of_a_region_are_counted_once(writable: bool) -> None:
    """The shared tables are in no process's VmPTE, but PageTables has them."""
    path = f"{mfs.ROOT}/scanned"
    mapping = Mapping(kind="tmpfs", path=path, size=PUD, step=PMD, processes=PROCESSES, writable=writable)
    if not writable:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, PUD)
        for block in range(0, PUD, PMD):
            os.pwrite(fd, b"x", block)
        os.close(fd)
        mapping = Mapping(**{**mapping.__dict__, "reserve": False})
    try:
        before = page_tables()
        with mapped(mapping) as living:
            grown = page_tables() - before
            bounded, walked = (entry_of(living.pids, "msharefs", exact) for exact in (False, True))
            private = sum(
                process.vmpte for process in collect(choice=Choice(pids=(*living.pids, living.parent))).processes
            )
    finally:
        os.unlink(path)
    own = (512 + 1) * PAGE
    truth = own + sum(living.growth)
    assert sum(living.growth) == PROCESSES * PAGE  # the PUD pages
    assert walked.now.likely == truth
    assert bounded.now.lower <= truth <= bounded.now.upper
    what_if = walked.what_if()
    assert what_if is not None
    assert what_if.now == what_if.shared == truth
    # The rest is the private tables of these processes. Not all kernels count topmost tables (one per process) and PUD
    # pages (three or four) in PageTables.
    assert abs(grown - private - own) <= 5 * PAGE * (PROCESSES + 1)


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(size=16 * MIB),
        Mapping(size=PUD, step=10 * MIB),
        Mapping(size=32 * MIB, collapse=True),
        Mapping(size=16 * MIB, inherited=True, part=0.5),
        Mapping(kind="sysv", size=8 * MIB),
    ],
    ids=["small pages", "sparse", "collapsed", "inherited", "SysV"],
)
def test_a_known_mapping(mapping: Mapping) -> None:
    kind = "SysV" if mapping.kind == "sysv" else mapping.kind
    with mapped(mapping) as living:
        truth = sum(living.growth)
        bounded, walked = (entry_of(living.pids, kind, exact) for exact in (False, True))
    assert bounded.now.lower <= truth <= bounded.now.upper
    assert abs(walked.now.likely - truth) <= 0.05 * truth
    assert walked.object is not None
    assert walked.object.leaves == (PMD if mapping.collapse else PAGE,)
