"""The memory of ranges of a region, against an array of bytes and a set of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mshare
from mshare.testing.conformance import backend_of
from tests.helpers.worlds import removed

PAGES = 9
"""Pages of the region, of the backend's unit of files. The last one is cut in the middle."""

numbers = st.integers(0, 2 * PAGES)
"""Half pages."""
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), numbers, st.integers(1, 255)),
        st.tuples(st.sampled_from(("populate", "discard")), numbers, numbers),
    ),
    max_size=17,
)


@contextmanager
def region(backend: str, size: int) -> Iterator[mshare.Region]:
    with removed("r"), mshare.create("r", size, backend=backend, reserve=False) as made:
        yield made


@settings(max_examples=29, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_ranges_against_bytes_and_pages(backend: str, steps: list[tuple[str, int, int]]) -> None:
    unit = backend_of(backend).capabilities.file_unit
    half, size = unit // 2, PAGES * unit - unit // 2
    data, pages = bytearray(size), set[int]()
    shared_last = unit > 4096  # hugetlb: the record lies in the last page, which therefore always has memory
    with region(backend, size) as made, mshare.attach("r", readonly=True, addr=mshare.ANYWHERE) as reader:
        for call, first, second in steps:
            if call == "store":
                offset = min(first * half, size - 1)
                made.buf[offset] = data[offset] = second
                pages.add(offset // unit)
                continue
            start, end = sorted((min(first * half, size), min(second * half, size)))
            whole = start % unit == 0 and (end % unit == 0 or end == size)
            try:
                getattr(made, call)(start, end - start)
            except mshare.InvalidSizeError:
                assert call == "discard"
                assert not whole
                continue
            assert call == "populate" or whole
            touched = set(range(start // unit, -(-end // unit))) if start < end else set()
            if call == "populate":
                pages |= touched
            else:
                pages -= touched
                data[start:end] = bytes(end - start)
            assert made.resident() == (len(pages | {PAGES - 1}) if shared_last else len(pages) + 1) * unit
        present = sorted(pages)
        for page in present:  # a look at another page would take memory
            span = slice(page * unit, min((page + 1) * unit, size), half - 1)
            assert reader.buf[span].tolist() == list(data[span])
        assert made.resident() == (len(pages | {PAGES - 1}) if shared_last else len(pages) + 1) * unit
        assert bytes(reader.buf) == bytes(data)
