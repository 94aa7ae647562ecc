"""The page-table pages that each process needs are compared with a count of every block, one by one."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from mshare._core.geometry import PAGE, PGD, PMD, PUD
from mshare._tools.scan.tables import LEVELS, Piece, blocks, charge, needs

OWNERS = (-1, 0, 1, 2)
# Few places around a border of all levels, so that blocks of each level often serve several owners.
edges = st.builds(
    lambda unit, number: PGD + unit * number, st.sampled_from((PAGE, PAGE, PMD, PMD, PUD)), st.integers(-2, 2)
)


@st.composite
def address_spaces(draw: st.DrawFn) -> list[Piece]:
    """Make pieces of one process, in order, with gaps or without."""
    places = sorted(draw(st.sets(edges, min_size=2, max_size=12)))
    return [
        Piece(start, end, draw(st.sampled_from(OWNERS)), draw(st.sampled_from((PAGE, PAGE, PMD, PUD, PGD))))
        for start, end in pairwise(places)
        if draw(st.booleans())
    ]


class Counted(NamedTuple):
    exclusive: dict[int, int]
    share: dict[int, float]
    touched: dict[int, list[int]]
    total: int


def count(pieces: list[Piece]) -> Counted:
    """Return a set of owners for each block of each level: the plain way."""
    exclusive: dict[int, int] = defaultdict(int)
    share: dict[int, float] = defaultdict(float)
    touched: dict[int, list[int]] = {piece.owner: [0, 0, 0] for piece in pieces}
    total = 0
    for number, level in enumerate(LEVELS):
        holders: dict[int, set[int]] = defaultdict(set)
        for piece in pieces:
            if piece.leaf < level:
                for block in range(piece.start // level, (piece.end - 1) // level + 1):
                    holders[block].add(piece.owner)
        for owners in holders.values():
            total += 1
            for owner in owners:
                touched[owner][number] += 1
                share[owner] += 1 / len(owners)
                exclusive[owner] += len(owners) == 1
    return Counted(exclusive, share, touched, total)


@given(address_spaces())
def test_needs_are_those_of_the_plain_count(pieces: list[Piece]) -> None:
    need, total = needs(pieces)
    plain = count(pieces)
    assert total == plain.total
    assert {owner: each.exclusive for owner, each in need.items()} == {o: plain.exclusive[o] for o in plain.touched}
    assert {owner: list(each.touched) for owner, each in need.items()} == plain.touched
    for owner, each in need.items():
        assert abs(each.share - plain.share[owner]) < 1e-6
    assert abs(sum(each.share for each in need.values()) - total) < 1e-6


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8), st.sampled_from((1, 4, 7)))
def test_blocks_of_spans_that_overlap_are_counted_once(spans: list[tuple[int, int]], level: int) -> None:
    touched = {byte // level for start, length in spans for byte in range(start, start + length)}
    assert blocks([(start, start + length) for start, length in spans], level) == len(touched)


@given(address_spaces(), st.data())
@example([], None)
def test_bounds_hold_for_any_tables_that_could_be_there(pieces: list[Piece], data: st.DataObject | None) -> None:
    """Remove any of the tables: each owner's remaining tables lie within the bounds from the size of the rest."""
    blocks: dict[tuple[int, int], set[int]] = defaultdict(set)
    for number, level in enumerate(LEVELS):
        for piece in pieces:
            if piece.leaf < level:
                for block in range(piece.start // level, (piece.end - 1) // level + 1):
                    blocks[number, block].add(piece.owner)
    there = [] if data is None else data.draw(st.lists(st.sampled_from(sorted(blocks)), unique=True)) if blocks else []
    need, total = needs(pieces)
    charged = charge(need, total, PAGE * len(there))
    for owner, each in charged.items():
        alone = sum(blocks[block] == {owner} for block in there)
        any_of_it = sum(owner in blocks[block] for block in there)
        assert each.lower <= PAGE * alone + 1e-6
        assert each.upper >= PAGE * any_of_it - 1e-6
        assert -1e-6 <= each.lower <= each.likely + 1e-6
        assert each.likely <= each.upper + 1e-6
    assert abs(sum(each.likely for each in charged.values()) - PAGE * len(there)) < 1e-3


@given(address_spaces())
def test_where_all_tables_are_there_the_split_is_even(pieces: list[Piece]) -> None:
    need, total = needs(pieces)
    for owner, each in charge(need, total, PAGE * total).items():
        assert abs(each.likely - PAGE * need[owner].share) < 1e-3
        assert each.lower == PAGE * need[owner].exclusive
