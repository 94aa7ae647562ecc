"""The comparison's report: every outcome is in it, failures in their own words, targets are judged by the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import report, specs, trial
from benchmarks.compare.__main__ import _measure
from benchmarks.compare.inside import ANSWER
from benchmarks.compare.trial import Outcome, Plan

PLAN = Plan(size_bytes=1 << 30, random_bytes=4 << 30, small_bytes=1 << 26, count=1000, runs=3, limit_s=60)
DOCUMENT: dict[str, Any] = {
    "machine": {"cpu": "one", "virtual": False},
    "command": "it",
    "load_1min": [0.1, 3.0],
    "seconds": 9.0,
    "missing": ["x: y"],
}


def read_in(mechanism: str, ns: float) -> Outcome:
    return Outcome(mechanism, "random", 1.0, {"ns": ns})


@given(st.text(min_size=1))
def test_a_failure_is_shown_in_its_own_words_on_one_line(failure: str) -> None:
    text = report.page(DOCUMENT, PLAN, [Outcome("Ray", "random", 1.0, None, failure)])
    assert "failed [1]" in text
    (note,) = [line for line in text.split("\n") if line.startswith("- [1]")]
    assert note.isprintable()
    if failure.isalnum() and len(failure) < 200:
        assert failure in note


def test_the_same_message_is_one_note() -> None:
    outcomes = [Outcome(mechanism, "random", 1.0, None, "no room") for mechanism in ("Ray", "vineyard")]
    text = report.page(DOCUMENT, PLAN, outcomes)
    assert text.count("failed [1]") == 2
    assert "[2]" not in text


def test_what_is_missing_and_how_busy_the_machine_was_is_said() -> None:
    text = report.page(DOCUMENT, PLAN, [])
    assert "- x: y" in text
    assert "at the end 3.00" in text
    assert "other things" in text


@pytest.mark.parametrize(("ns", "verdict"), [(10.0, "met"), (11.0, "**missed**")])
def test_the_target_is_judged_by_the_fastest_mechanism_with_small_pages(ns: float, verdict: str) -> None:
    outcomes = [
        read_in("mshare thp", ns),
        read_in(specs.PLAIN, 13.0),
        read_in("posix_ipc", 12.5),
        read_in("sysv_ipc SHM_HUGETLB", 1.0),
        read_in(specs.BASELINE, 0.5),
    ]
    text = report.page(DOCUMENT, PLAN, outcomes)
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
    text = report.page(DOCUMENT, PLAN, outcomes)
    assert "**the first write: killed by SIGBUS**" in text
    assert "creating fails [" in text
    assert "NoSpaceError: too large" in text
    assert "/memfd:v (deleted)" in text


def costs(mechanism: str, vmpte_bytes: int) -> Outcome:
    times = dict.fromkeys(("first_attach_ns", "attach_ns", "fork_ns", "exit_ns"), 1000)
    return Outcome(mechanism, "process", 1.0, {"vmpte_bytes": vmpte_bytes, "minor_faults": 1, **times})


def test_the_pages_of_a_mechanism_are_told_by_its_page_tables_where_they_were_measured() -> None:
    read = [read_in("mshare thp", 10.0), read_in(specs.PLAIN, 20.0), read_in("Ray", 11.0), read_in("other", 12.0)]
    measured = [costs(specs.PLAIN, 2 << 20), costs("Ray", 8 << 10), costs("other", (2 << 20) - 8192)]
    text = report.page(DOCUMENT, PLAN, [*read, *measured])
    assert "pages: 1.20 (the fastest of them) to 2.00 (the slowest)" in text
    assert "pages: 1.10 (the fastest of them) to 2.00 (the slowest)" in report.page(DOCUMENT, PLAN, read)


def test_a_page_table_of_eight_bytes_per_4_kib_is_one_of_small_pages() -> None:
    assert report.is_small_paged({"vmpte_bytes": 2 << 20}, 1 << 30)
    assert report.is_small_paged({"vmpte_bytes": (2 << 20) - 4096}, 1 << 30)
    assert not report.is_small_paged({"vmpte_bytes": 8 << 10}, 1 << 30)


def crowd_of(**values: Any) -> Outcome:
    return Outcome("Ray", "crowd", 1.0, {"count": 1000, "seconds": 1.0, "page_tables_bytes": 4096, **values})


def test_what_the_benchmark_stopped_is_at_least_that() -> None:
    text = report.page(DOCUMENT, PLAN, [crowd_of(attached=821, stopped="stopped by this benchmark", cut=True)])
    assert "| Ray | ≥ 821 |" in text
    assert "- [1] `stopped by this benchmark`" in text
    assert "| Ray | 821 |" in report.page(DOCUMENT, PLAN, [crowd_of(attached=821, stopped="OSError: no")])


def test_memory_of_a_daemon_is_not_seen() -> None:
    fates = {"others": "ok", "newcomer": "ok", "later": "ok", "kept_bytes": None}
    assert "| not seen |" in report.page(DOCUMENT, PLAN, [Outcome("vineyard", "creator", 1.0, fates)])


def test_exceptions_to_the_general_rule_are_said() -> None:
    touched = Outcome("Ray", "touch", 1.0, {"ns": 1, "bytes": 1, "runs": 1})
    assert "first touch of Ray: one process" in report.page(DOCUMENT, PLAN, [touched])
    assert "faults are as counted" in report.page(DOCUMENT, PLAN, [costs(specs.BASELINE, 0)])


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"cpu": "one", "virtual": False}, None),
        ({"cpu": "one", "virtual": True}, "bare metal"),
        ({"cpu": "QEMU TCG CPU version 2.5+", "virtual": True}, "times are distorted"),
    ],
)
def test_what_a_machine_does_to_times_is_said(facts: dict[str, Any], said: str | None) -> None:
    text = report.page({**DOCUMENT, "machine": facts}, PLAN, [])
    assert [words for words in ("bare metal", "times are distorted") if words in text] == ([said] if said else [])


def random_round(ns: float) -> Outcome:
    return Outcome("Ray", "random", 1.0, {"ns": ns, "best_ns": ns / 2})


def test_rounds_of_random_reads_are_shown_by_their_median_and_their_spread() -> None:
    one = trial.middle([random_round(ns) for ns in (30.0, 10.0, 20.0)])
    assert one.seconds == 3.0
    assert "| 20.0 ns (10.0 to 30.0) |" in report.page(DOCUMENT, PLAN, [one])


def test_mechanisms_take_turns_at_random_reads_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(mechanism: specs.MechanismSpec, column: str, plan: Plan) -> Outcome:
        del plan
        asked.append(mechanism.label)
        return Outcome(mechanism.label, column, 1.0, {"ns": float(len(asked)), "best_ns": 1.0})

    monkeypatch.setattr(trial, "run_trial", run)
    who = [specs.MechanismSpec(label, "") for label in "ab"]
    plan = replace(PLAN, random_rounds=3)
    found = _measure("random", who, plan)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert [(one.mechanism, one.values and one.values["ns"]) for one in found] == [("a", 4.0), ("b", 3.0)]
    asked.clear()
    _measure("process", who, plan)
    assert asked == ["a", "b"]


def test_a_failed_round_is_left_out_and_said_and_failed_rounds_are_a_failure() -> None:
    failed = Outcome("Ray", "random", 1.0, None, "no room")
    some = trial.middle([failed, random_round(10.0)])
    text = report.page(DOCUMENT, PLAN, [some])
    assert "| 10.0 ns |" in text
    assert "random reads of Ray: a round failed" in text
    none = trial.middle([failed, failed])
    assert (none.values, none.failure) == (None, "no room")


@pytest.mark.parametrize(
    ("output", "values", "failure"),
    [
        (f'{ANSWER}{{"values": {{"ns": 1}}}}\n', {"ns": 1}, ""),
        (f'junk\n{ANSWER}{{"values": {{"ns": 1}}}}\nbye from a library\n', {"ns": 1}, ""),
        (f'{ANSWER}{{"failure": "no room"}}\n', None, "no room"),
        (f'{ANSWER}{{"values": {{"n', None, ""),
        ("bye from a library\n", None, ""),
        ("", None, ""),
    ],
)
def test_the_answer_of_a_trial_is_found_among_junk(output: str, values: dict[str, int] | None, failure: str) -> None:
    assert trial.parse_answer(output) == (values, failure)


def test_sizes_belong_to_columns() -> None:
    assert PLAN.size("random") == 4 << 30
    assert PLAN.size("process") == PLAN.size("tables") == PLAN.size("touch") == 1 << 30
    assert PLAN.size("crowd") == PLAN.size("full") == PLAN.size("creator") == 1 << 26
