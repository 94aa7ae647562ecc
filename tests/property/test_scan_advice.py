"""The advice of `mshare report` on made-up servers: its numbers add up with any mappings."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mshare._core.backends import ALL
from mshare._core.geometry import PAGE, PMD
from mshare._core.units import GIB, MIB, TIB
from mshare._tools.scan.advice import LEAST_BYTES, LEAST_PART, Verdict, judge, matters
from mshare._tools.scan.case import Case
from mshare._tools.scan.remedies import remedies
from mshare._tools.scan.snapshot import Snapshot
from mshare._tools.scan.survey import survey
from tests.helpers.servers import Crowd, postgresql, server

SIZES = st.integers(PAGE, 40 * GIB).map(lambda size: size & -PAGE)
PEOPLE = st.integers(1, 60)
CROWDS = st.lists(
    st.one_of(
        st.builds(postgresql, SIZES, PEOPLE, st.sampled_from(["anonymous", "SysV"])),
        st.builds(lambda size, n: Crowd("/SYSV00000001", size, n, "ora_dbw0_X", "SysV"), SIZES, PEOPLE),
        st.builds(lambda size, n: Crowd("/memfd:java_heap", size, n, "java", "memfd"), SIZES, PEOPLE),
        st.builds(lambda name, size, n: Crowd(f"/dev/shm/{name}", size, n), st.text(max_size=9), SIZES, PEOPLE),
        st.builds(
            lambda kind, size, n: Crowd("/srv/data", size, n, kind=kind),
            st.sampled_from(["file", "memfd", "device"]),
            SIZES,
            PEOPLE,
        ),
        st.builds(lambda size, n: Crowd("/dev/hugepages/x", size, n, kind="hugetlb", page=PMD), SIZES, PEOPLE),
    ),
    max_size=5,
)
MEMORY = st.sampled_from([0, 2 * GIB, 64 * GIB, 2 * TIB])
POOLS = st.tuples(*[st.integers(0, 30_000)] * 3).map(sorted)


def judged(snapshot: Snapshot) -> Verdict:
    return judge(snapshot, survey(snapshot), ALL)


def blocks(size: int) -> int:
    """2 MiB pages for `size` bytes, counted."""
    return len(range(0, size, PMD))


def pool_number(commands: tuple[str, ...]) -> int | None:
    found = [re.search(r"sysctl -w vm\.nr_hugepages=(\d+)$", line) for line in commands]
    return next((int(each[1]) for each in found if each), None)


@given(CROWDS, MEMORY)
def test_numbers_add_up(crowds: list[Crowd], memory: int) -> None:
    snapshot = server(*crowds, memory=memory)
    found = survey(snapshot)
    verdict = judge(snapshot, found, ALL)
    assert verdict.act == bool(verdict.advice)
    assert verdict.page_tables == snapshot.system.memory["PageTables"]
    assert 0 <= verdict.saving <= verdict.page_tables
    assert verdict.saving == sum(each.remedies[0].saving for each in verdict.advice)
    assert [each.now.likely for each in verdict.advice] == sorted((e.now.likely for e in verdict.advice), reverse=True)
    shared = sum(usage.now.likely for usage in found.usages if usage.shared)
    assert sum(each.now.likely for each in verdict.advice) <= shared
    for each in verdict.advice:
        for remedy in each.remedies:
            assert remedy.now == each.now.likely
            assert remedy.saving == remedy.now - remedy.predicted > 0
            assert matters(4 * remedy.saving, memory)
            assert remedy.commands


@given(CROWDS, st.integers(GIB, 2 * TIB))
def test_small_page_tables_are_left_alone(crowds: list[Crowd], memory: int) -> None:
    snapshot = server(*crowds, memory=memory)
    verdict = judged(snapshot)
    tables = snapshot.system.memory["PageTables"]
    if tables < LEAST_BYTES and tables < LEAST_PART * memory:
        assert not verdict.act
        assert len(verdict.sentences) == 1
        assert verdict.sentences[0].endswith(": nothing to do.")
    else:
        assert "nothing to do" not in verdict.sentences[0]


@given(CROWDS, POOLS)
def test_the_pool_has_room_for_all_that_was_advised(crowds: list[Crowd], pool: list[int]) -> None:
    """The remedies are applied from top to bottom. After each, its pages are free beside all pages that are used or
    promised now or were asked for before, and no more than the remedy's margin is left."""
    reserved, free, total = pool
    verdict = judged(server(*crowds, total=total, free=free, reserved=reserved))
    used = total - (free - reserved)
    first_choices = 0
    for each in verdict.advice:
        for remedy in each.remedies:
            if not remedy.huge_pages:
                assert pool_number(remedy.commands) is None
                continue
            number = pool_number(remedy.commands)
            have = total if number is None else number
            assert have - used - first_choices >= remedy.huge_pages
            assert number is None or have - used - first_choices == remedy.huge_pages
        first_choices += each.remedies[0].huge_pages


@given(SIZES, PEOPLE)
def test_pages_are_the_objects_blocks_and_a_margin(size: int, people: int) -> None:
    snapshot = server(postgresql(size, people))
    (usage,) = (usage for usage in survey(snapshot).usages if usage.shared)
    remedy, *_ = remedies(Case((usage,), snapshot.processes, snapshot), ALL)
    assert pool_number(remedy.commands) == remedy.huge_pages
    assert 2 <= remedy.huge_pages - blocks(size) <= max(2, blocks(size) / 100 + 1)


@given(CROWDS)
def test_what_needs_no_remedy_gets_none(crowds: list[Crowd]) -> None:
    for each in judged(server(*crowds, memory=GIB)).advice:
        assert each.kind not in ("hugetlb", "device", "msharefs", "private")


def test_more_processes_need_no_more_huge_pages() -> None:
    numbers = {pool_number(judged(server(postgresql(GIB, n))).advice[0].remedies[0].commands) for n in (50, 60, 400)}
    assert numbers == {512 + 6}
    assert not judged(server(postgresql(GIB, 30))).act, "60 MiB, of which nearly all could be saved"
    assert judged(server(postgresql(256 * MIB, 12), memory=500 * MIB)).act
