"""The arithmetic on runs, and their way through JSON, for all values that a run may hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._core.geometry import page_tables
from mshare._tools.lab.run import Run, Sample, Spread, fit
from mshare._tools.lab.scale import MOST, PROPOSAL, server

MIB = 1 << 20
bytes_ = st.integers(0, 1 << 44)
samples = st.lists(st.builds(Sample, st.integers(1, 5000), bytes_, bytes_), max_size=5).map(tuple)
spreads = st.lists(st.integers(0, 1 << 40), max_size=5).map(Spread.of)
runs = st.builds(
    Run,
    mechanism=st.text(),
    label=st.text(),
    size_bytes=bytes_,
    step_bytes=st.sampled_from((4096, 2 * MIB)),
    wanted=st.integers(1, 5000),
    unavailable=st.none() | st.text(),
    samples=samples,
    base=samples,
    faults=spreads,
    oom_log=st.lists(st.text()).map(tuple),
    total_s=st.floats(0, 1e6),
)


@given(runs)
def test_a_run_survives_json(run: Run) -> None:
    assert Run.from_json(json.loads(json.dumps(run.as_json()))) == run


@given(
    start=st.integers(0, 1 << 30),
    each=st.integers(0, 8 * MIB),
    own=st.integers(0, MIB),
    counts=st.sets(st.integers(1, 2000), min_size=2, max_size=20),
)
def test_what_processes_cost_without_the_region_is_taken_out(start: int, each: int, own: int, counts: set[int]) -> None:
    run = Run(
        "mechanism", "label", 1, 4096, 2000,
        samples=tuple(Sample(n, start + (each + own) * n, 0) for n in sorted(counts)),
        base=tuple(Sample(n, own * n, 0) for n in sorted(counts)),
    )  # fmt: skip
    assert run.per_client_bytes() == pytest.approx(each, abs=1)
    assert run.needed_bytes(1500) == pytest.approx(1500 * each, abs=1500)
    assert run.caused_bytes() == pytest.approx(start + each * max(counts), abs=1)


@given(st.lists(st.builds(Sample, st.just(7), bytes_, bytes_), max_size=3))
def test_one_number_of_clients_has_no_slope(points: list[Sample]) -> None:
    assert fit(points).slope == 0
    assert fit(points).at(1500) == (points[-1].page_tables_bytes if points else 0)


@given(st.integers(1, MOST))
def test_a_smaller_server_is_like_the_large_one(factor: int) -> None:
    small = server(factor)
    assert small.memory_bytes == PROPOSAL.memory_bytes // factor
    assert -1 < small.region_bytes - PROPOSAL.region_bytes / factor < 2 * MIB
    assert small.private_tables_bytes == small.clients * page_tables(small.region_bytes, leaf_size=4096).bytes


@pytest.mark.parametrize("factor", [0, -1, MOST + 1])
def test_a_factor_that_leaves_nothing_is_refused(factor: int) -> None:
    with pytest.raises(ValueError, match="factor"):
        server(factor)


def test_the_proposals_own_numbers() -> None:
    assert server(1) == PROPOSAL
    assert 878 << 30 < PROPOSAL.private_tables_bytes < 881 << 30
