"""The figures and the page of benchmarks.disturb: pure."""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.disturb import FOLLOW, NEVER, WAYS, Run, Times, markdown

moments = st.integers(0, 1 << 40)
ends = st.lists(moments, min_size=1, max_size=50, unique=True).map(lambda them: array("Q", sorted(them)))


@given(st.lists(ends, min_size=1, max_size=3), moments, moments)
def test_operations_are_counted_where_they_end(workers: list[array[int]], one: int, other: int) -> None:
    start, end = sorted((one, other))
    times = Times(workers, [])
    found = times.latencies(start, end)
    expected = sorted(after - before for each in workers for before, after in pairwise(each) if start < after <= end)
    assert found == expected
    starts = sum(start < each[0] <= end for each in workers)
    assert len(found) == times.count(start, end) - starts


def test_what_is_neither_processor_time_nor_the_queue_is_blocked() -> None:
    second = 10**9
    samples = array("Q", [0, 0, 0, second, second // 2, second // 4, 2 * second, second, second, 9 * second, 0, 0])
    assert Times([], [samples]).spent(0, 2 * second) == (1.0, 0.125, second // 4)


def test_the_page_compares_with_the_run_of_the_same_round() -> None:
    runs = [
        Run(
            way=way,
            round=number,
            seconds=4.0,
            operations=1000,
            p50_us=10.0,
            p99_us=20.0,
            p999_us=30.0,
            longest_us=5000.0,
            blocked=0.0625 if way == NEVER else 0.125,
            longest_blocked_us=4000.0,
            after=100.0 + 200 * number * (way == NEVER),
            by_time=0.75,
            by_processor=0.5,
            load=1.0 + number,
        )
        for number in range(2)
        for way in WAYS
    ]
    machine = {"cpus": 2, "cpu": "a processor", "kernel": "6.18"}
    text = markdown(runs, {"machine": machine, "size": "128 MiB", "workers": 2, "seconds": 8.0})
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {FOLLOW} |"))
    columns = [column.strip() for column in row.split("|")]
    assert columns[2:5] == ["4.0 s (4 to 4)", "0.75 (0.75 to 0.75)", "0.50 (0.5 to 0.5)"]
    assert columns[7:12] == [
        "5 ms (5 to 5)",
        "12.5 % (12.5 to 12.5)",
        "0.25 s (0.25 to 0.25)",
        "4 ms (4 to 4)",
        "0.67 (0.333 to 1)",
    ]
    assert "2 processes write" in text
    assert "load average\n1.0 to 2.0" in text
