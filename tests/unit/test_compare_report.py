"""The comparison's report: every outcome is in it, failures in their own words, targets are judged by the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import contenders, report
from benchmarks.compare.trial import Outcome, Plan

PLAN = Plan(size_bytes=1 << 30, random_bytes=4 << 30, small_bytes=1 << 26, count=1000, runs=3, limit_s=60)
DOCUMENT: dict[str, Any] = {
    "machine": {},
    "command": "it",
    "load_1min": [0.1, 3.0],
    "seconds": 9.0,
    "missing": ["x: y"],
}


def read_in(peer: str, ns: float) -> Outcome:
    return Outcome(peer, "random", 1.0, {"ns": ns})


@given(st.text(min_size=1))
def test_a_failure_is_shown_in_its_own_words_on_one_line(failure: str) -> None:
    text = report.markdown(DOCUMENT, PLAN, [Outcome("Ray", "random", 1.0, None, failure)])
    assert "failed [1]" in text
    (note,) = [line for line in text.split("\n") if line.startswith("- [1]")]
    assert note.isprintable()
    if failure.isalnum() and len(failure) < 200:
        assert failure in note


def test_the_same_message_is_one_note() -> None:
    outcomes = [Outcome(peer, "random", 1.0, None, "no room") for peer in ("Ray", "vineyard")]
    text = report.markdown(DOCUMENT, PLAN, outcomes)
    assert text.count("failed [1]") == 2
    assert "[2]" not in text


def test_what_is_missing_and_how_busy_the_machine_was_is_said() -> None:
    text = report.markdown(DOCUMENT, PLAN, [])
    assert "- x: y" in text
    assert "at the end 3.00" in text
    assert "other things" in text


@pytest.mark.parametrize(("ns", "verdict"), [(10.0, "met"), (11.0, "**missed**")])
def test_the_target_is_judged_by_the_fastest_peer_with_small_pages(ns: float, verdict: str) -> None:
    outcomes = [
        read_in("mshare thp", ns),
        read_in(contenders.PLAIN, 13.0),
        read_in("posix_ipc", 12.5),
        read_in("sysv_ipc SHM_HUGETLB", 1.0),
        read_in(contenders.BASELINE, 0.5),
    ]
    text = report.markdown(DOCUMENT, PLAN, outcomes)
    (target,) = [line for line in text.split("\n") if line.startswith("Target: `mshare thp`")]
    assert target.endswith(f"{verdict}.")
    assert f"{12.5 / ns:.2f} (the fastest" in target
    assert f"| mshare thp | {13.0 / ns:.2f} |" in text


def test_a_death_by_signal_is_bold_and_an_error_is_not() -> None:
    outcomes = [
        Outcome("posix_ipc", "full", 1.0, {"step": "touch", "how": "killed by SIGBUS"}),
        Outcome("mshare shm", "full", 1.0, {"step": "create", "how": "NoSpaceError: too large"}),
        Outcome("vineyard", "full", 1.0, {"step": "none", "how": "ok", "where": "/memfd:v (deleted)"}),
    ]
    text = report.markdown(DOCUMENT, PLAN, outcomes)
    assert "**the first write: killed by SIGBUS**" in text
    assert "creating fails [" in text
    assert "NoSpaceError: too large" in text
    assert "/memfd:v (deleted)" in text


def test_sizes_belong_to_columns() -> None:
    assert PLAN.size("random") == 4 << 30
    assert PLAN.size("process") == PLAN.size("tables") == PLAN.size("touch") == 1 << 30
    assert PLAN.size("crowd") == PLAN.size("full") == PLAN.size("creator") == 1 << 26
