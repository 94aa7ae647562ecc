"""The page of the locks' benchmark has ratios to multiprocessing.Lock and says whether the target was met."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.locks import CALLS, CROWDS, FILE, OURS, THEIRS, WITH, Alone, Together, markdown

MACHINE = {"cpus": 2, "cpu": "X", "kernel": "7", "python": "3", "filelock": "4", "load_1min": 0.1}


@pytest.mark.parametrize(
    ("ours_ns", "verdict"),
    [(199.0, "2.0 (2.0 to 2.5 in single rounds), met"), (260.0, "2.6 (2.6 to 3.1 in single rounds), not met")],
)
def test_the_page_compares(ours_ns: float, verdict: str) -> None:
    single = [
        Alone(THEIRS, WITH, 100.0),
        Alone(OURS, WITH, ours_ns),
        Alone(THEIRS, CALLS, 50.0),
        Alone(OURS, CALLS, 500.0),
        Alone("other", "a call", 7.0),
    ]
    crowds = [
        Together(kind, processes, locks, 1.0)
        for processes in CROWDS
        for kind, locks in ((OURS, 500.0), (THEIRS, 1000.0), (FILE, 10.0))
    ]
    slower = [replace(each, nanoseconds=ours_ns + 50) if each == single[1] else each for each in single]
    page = markdown([single, slower, single], crowds, MACHINE, 3)
    assert f"in a `with` block: {verdict}." in page
    assert f"| {OURS} | {CALLS} | 500 ns | 10.0 |" in page
    assert "| other | a call | 7 ns |  |" in page
    assert f"| 64 | {OURS} | 500 | 1 | 2,000.0 µs | 0.50 |" in page
