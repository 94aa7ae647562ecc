"""Address arithmetic against oracles that count instead of calculating."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mshare._core.geometry import (
    PAGE,
    PGD,
    PMD,
    PUD,
    WINDOW,
    Span,
    attachment_span,
    page_tables,
    pick_address,
    round_up,
)

spans = st.builds(
    lambda start, length: Span(start, start + length),
    st.one_of(
        st.integers(WINDOW[0] - PGD, WINDOW[1] + PGD),
        st.integers(0, 16).map(lambda slot: WINDOW[0] + slot * PUD),
        st.integers(0, 16).map(lambda slot: WINDOW[1] - slot * PUD),
    ),
    st.one_of(st.integers(1, 1 << 45), st.integers(1, 3 * PUD), st.just(PAGE)),
)
sizes = st.one_of(st.integers(1, 3 * PUD), st.integers(1, 1 << 46), st.sampled_from((PUD, PUD + 1, 1 << 45)))


@given(st.integers(0, 1 << 64), sizes, st.lists(spans, max_size=17))
def test_a_picked_address_is_aligned_in_the_window_and_free(seed: int, size: int, taken: list[Span]) -> None:
    addr = pick_address(seed, size, taken)
    if addr is not None:
        assert addr % PUD == 0
        assert WINDOW[0] <= addr
        assert addr + round_up(size, PUD) <= WINDOW[1]
        assert not any(attachment_span(size, addr).overlaps(span) for span in taken)
        return
    # None is right only if every space before, between and after the taken ranges is too small.
    at = WINDOW[0]
    for span in sorted(taken):
        assert span.start < at + round_up(size, PUD) or at + round_up(size, PUD) > WINDOW[1]
        at = max(at, round_up(span.end, PUD))
    assert at + round_up(size, PUD) > WINDOW[1]


@given(st.integers(0, 1 << 64), sizes)
def test_the_same_seed_finds_the_same_address(seed: int, size: int) -> None:
    assert pick_address(seed, size, []) == pick_address(seed, size, [])


@given(st.integers(0, 1 << 64), sizes, st.lists(spans, max_size=5))
def test_no_more_borders_of_512_gib_are_crossed_than_there_must(seed: int, size: int, taken: list[Span]) -> None:
    def crossed(addr: int) -> int:
        return (addr + round_up(size, PUD) - 1) // PGD - addr // PGD

    addr = pick_address(seed, size, taken)
    if addr is not None and crossed(addr) > (round_up(size, PUD) - 1) // PGD:
        aligned = range(WINDOW[0], WINDOW[1] - round_up(size, PUD) + 1, PGD)
        assert all(any(attachment_span(size, at).overlaps(span) for span in taken) for at in aligned)


@given(
    st.integers(1, 4 * PMD // PAGE),
    st.sampled_from((PAGE, PMD)),
    st.integers(0, 600).map(lambda slot: WINDOW[0] + PGD - 300 * PMD + slot * PMD),
)
def test_tables_are_those_that_a_walk_over_every_page_meets(pages: int, leaf: int, addr: int) -> None:
    ptes, pmds, puds = set(), set(), set()
    for page in range(addr, addr + pages * PAGE, PAGE):
        in_a_large_leaf = leaf == PMD and page // PMD * PMD + PMD <= addr + pages * PAGE
        if not in_a_large_leaf:
            ptes.add(page // PMD)
        pmds.add(page // PUD)
        puds.add(page // PGD)
    assert page_tables(pages * PAGE, leaf_size=leaf, addr=addr) == (len(ptes), len(pmds), len(puds))


@given(st.integers(0, 1 << 62), st.integers(1, 1 << 40))
def test_rounding_up(value: int, unit: int) -> None:
    rounded = round_up(value, unit)
    assert rounded % unit == 0
    assert 0 <= rounded - value < unit
