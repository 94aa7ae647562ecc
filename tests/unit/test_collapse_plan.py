"""The plan for each object: made-up processes, and the arithmetic of blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._core.geometry import PMD
from mshare._core.linux.incore import Block
from mshare._core.units import GIB
from mshare._tools.collapse.plan import Candidate, candidates, named
from mshare._tools.collapse.show import Prospect, prospect_fields
from mshare._tools.collapse.tally import Counts, Threshold, count
from mshare._tools.scan.mappings import Mapping
from mshare._tools.scan.snapshot import Kind, Snapshot
from mshare._tools.scan.survey import survey
from tests.helpers.servers import Crowd, postgresql, server

DENY = "always within_size advise never [deny] force"


def found(snapshot: Snapshot) -> tuple[Candidate, ...]:
    return candidates(snapshot, survey(snapshot))


@pytest.mark.parametrize(
    ("mapping", "aligned", "blocks"),
    [
        (Mapping(1, 4 * PMD, 7 * PMD, 0), True, range(3)),
        (Mapping(1, 4 * PMD, 7 * PMD - 1, 0), True, range(2)),
        (Mapping(1, 4 * PMD, 7 * PMD, PMD), True, range(1, 4)),
        (Mapping(1, 4 * PMD + 4096, 7 * PMD, 4096), True, range(1, 3)),
        (Mapping(1, 4 * PMD + 4096, 7 * PMD, 0), False, range(2)),
        (Mapping(1, 4 * PMD, 7 * PMD, 4096), False, range(1, 3)),
        (Mapping(1, 4 * PMD, 5 * PMD - 4096, 0), True, range(0)),
    ],
)
def test_which_blocks_a_mapping_covers(mapping: Mapping, aligned: bool, blocks: range) -> None:
    assert (mapping.aligned, mapping.blocks) == (aligned, blocks)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hugetlb", "huge pages of hugetlb already"),
        ("msharefs", "share page tables"),
        ("file", "a file on disk"),
        ("device", "a device's memory"),
        ("tmpfs", None),
        ("memfd", None),
        ("SysV", None),
        ("anonymous", None),
    ],
)
def test_what_is_refused(kind: Kind, said: str | None) -> None:
    (each,) = found(server(Crowd("/x", GIB, 3, kind=kind, page=PMD if kind == "hugetlb" else 4096)))
    assert (each.refusal is None) == (said is None)
    assert said is None or said in str(each.refusal)


def test_deny_refuses_what_would_be_possible() -> None:
    (each,) = found(server(postgresql(GIB, 3), shmem=DENY))
    assert "is deny" in str(each.refusal)


def test_an_object_below_a_block_is_not_worth_a_thought() -> None:
    (each,) = found(server(Crowd("/x", PMD - 4096, 3, kind="memfd")))
    assert each.mappings == ()
    assert "no mapping covers" in str(each.refusal)


def test_the_page_tables_afterwards_are_those_of_2_mib_leaves() -> None:
    (each,) = found(server(postgresql(GIB, 40)))
    what_if = each.usage.what_if()
    assert what_if is not None
    assert each.after(1.0) == what_if.leaves_2m
    assert each.after(0.0) == each.usage.now.likely
    assert what_if.leaves_2m < each.after(0.5) < each.usage.now.likely


def test_processes_with_unaligned_mappings_keep_their_tables() -> None:
    snapshot = server(postgresql(GIB, 4))
    first = snapshot.processes[0]
    assert first.areas is not None
    moved = tuple(
        area._replace(start=area.start + 4096, end=area.end + 4096) if area.shared else area for area in first.areas
    )
    (each,) = found(snapshot._replace(processes=(first._replace(areas=moved), *snapshot.processes[1:])))
    assert each.unaligned_pids == {first.pid}
    assert each.after(1.0) > each.usage.by_process[first.pid]
    fields = dict(prospect_fields(Prospect(each, Counts(0, 512, 0, 0, 0, 0), 9)))
    assert str(first.pid) in fields["unaligned"]
    assert "3 of 4 mappings are aligned" in fields["mapped by"]
    assert "has to move pages" in fields["memory"]


def test_an_object_has_several_names() -> None:
    each, other = found(server(Crowd("/dev/shm/a", GIB, 3, region="a"), Crowd("/dev/shm/b", GIB, 3, deleted=True)))
    for name in ("/dev/shm/a", "region a", "region:a", "a", "#100", "100"):
        assert list(named((each, other), name)) == [each], name
    for name in ("/dev/shm/b", "/dev/shm/b (deleted)", "101"):
        assert list(named((each, other), name)) == [other], name
    assert list(named((each, other), "")) == []


def test_blocks_are_counted_once_each() -> None:
    blocks = [Block(0, 512, True), Block(1, 512, False), Block(2, 256, False), Block(3, 255, False), Block(4, 0, False)]
    blocks += [Block(5, 300, False, 212), Block(6, 0, False, 7)]
    assert [each.number for each in Threshold(50).chosen(blocks)] == [1, 2]
    assert count(blocks, Threshold(50), 9) == Counts(huge=1, warm=2, cold=1, empty=3, swapped=2, missing_pages=256)
    assert count(blocks, Threshold(0), 7).warm == 3


@given(
    st.lists(st.tuples(st.integers(0, 512), st.booleans(), st.sampled_from([0, 0, 3])), max_size=40),
    st.integers(0, 100),
    st.integers(0, 30),
)
def test_little_used_blocks_are_chosen_only_if_they_add_little(
    drawn: list[tuple[int, bool, int]], warm: int, spare: int
) -> None:
    blocks = [
        Block(number, 512 if huge else pages, huge, 0 if huge else swapped)
        for number, (pages, huge, swapped) in enumerate(drawn)
    ]
    chosen = Threshold(warm, spare).chosen(blocks)
    certain = Threshold(warm).chosen(blocks)
    more = [each for each in chosen if each not in certain]
    assert all(each.pages and not each.huge and not each.swapped for each in chosen)
    assert [each for each in chosen if each not in more] == certain
    before = sum(each.pages for each in blocks) + sum(512 - each.pages for each in certain)
    assert sum(512 - each.pages for each in more) * 100 <= spare * before
    left = [each for each in blocks if each.pages and not each.huge and not each.swapped and each not in chosen]
    assert not left or sum(512 - each.pages for each in left) * 100 > spare * before


def test_blocks_that_several_mappings_cover_are_counted_once() -> None:
    (each,) = found(server(postgresql(GIB, 3)))
    spans = [(0, 3), (1, 4), (6, 7), (6, 9), (0, 2)]
    mappings = tuple(Mapping(1, first * PMD, last * PMD, first * PMD) for first, last in spans)
    assert each._replace(mappings=mappings).reachable == 7
    assert each.reachable == GIB // PMD
