"""The PostgreSQL benchmark's parsers, targets and page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.postgres import children_faults, parse_pgbench
from benchmarks.postgres_page import (
    AHEAD,
    COLLAPSE,
    HUGE,
    LATER,
    MSHAREFS,
    SETTINGS,
    STOCK,
    PgbenchRun,
    Results,
    ServerStart,
    page,
    targets,
)
from mshare._core.units import GIB, MIB

OUTPUT = """pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
number of transactions actually processed: 155000
latency average = 3.225 ms
initial connection time = 151.020 ms
tps = 15503.876969 (without initial connection time)
"""
PROGRESS = "".join(
    f"progress: {second}.0 s, {tps}.5 tps, lat {latency}.125 ms stddev 0.900, 0 failed\n"
    for second, tps, latency in [(2, 100, 9), (10, 200, 8), (12, 1000, 3), (14, 3000, 1), (16, 2000, 2)]
)


def test_pgbench_output() -> None:
    whole = {"whole_tps": 15503.876969, "connect_ms": 151.02}
    assert parse_pgbench(OUTPUT, 1) == {**whole, "tps": 15503.876969, "latency_ms": 3.225}


def test_the_first_half_of_a_run_is_warming_up() -> None:
    found = parse_pgbench(PROGRESS + OUTPUT, 20)
    assert (found["tps"], found["latency_ms"], found["whole_tps"]) == (2000.5, 2.125, 15503.876969)


def test_output_without_a_figure_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="tps"):
        parse_pgbench(OUTPUT.replace("tps = 1", "tps: 1"), 1)


def test_a_run_too_short_for_any_transaction_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--seconds"):
        parse_pgbench(OUTPUT.replace("processed: 155000", "processed: 0").replace("tps = ", "nothing "), 1)


@given(st.binary(max_size=15), st.integers(0, 2**63))
def test_faults_of_children_whatever_the_command_is_called(name: bytes, faults: int) -> None:
    stat = b"7 (" + name + b") S 1 1 1 0 -1 4194560 11 %d 13 14" % faults
    assert children_faults(stat) == faults


def test_faults_of_children_in_a_real_line() -> None:
    assert children_faults(Path("/proc/self/stat").read_bytes()) >= 0


DOCUMENT = {
    "machine": {"cpu": "one", "virtual": True},
    "command": "it",
    "load_1min": [0.0, 0.0],
    "size_bytes": 1 << 30,
    "seconds": 1,
    "rounds": 1,
    "missing": ["z"],
}


def a_run(setting: str, tables: int, clients: int = 200, tps: float = 1000.0, faults: int = 1000) -> PgbenchRun:
    return PgbenchRun(setting, clients, tps, 1.0, tps, 1.0, tables, tables, faults)


def a_start(setting: str, start_ms: float = 100.0, faults: int | None = None) -> ServerStart:
    return ServerStart(setting, start_ms, 1.0, 1234.0 if setting == LATER else None, None, faults, 500)


def test_the_report_has_medians_and_ratios_within_the_run() -> None:
    runs = [
        a_run(STOCK, 1 << 30, 50, 100.0, 1000),
        a_run(STOCK, 3 << 30, 50, 300.0, 3000),
        a_run(HUGE, 1 << 21, 50, 250.0, 100),
    ]
    results = Results(runs, [a_start(STOCK), a_start(LATER), a_start(STOCK, 300.0, 7)])
    text = page(DOCUMENT, results, ["times are distorted"])
    assert "| 50 | huge_pages=off | 2 GiB (1 GiB to 3 GiB) | 2 GiB (1 GiB to 3 GiB) | 2,000 |" in text
    assert "| 200 (100 to 300) |" in text
    assert "| 50 | huge_pages=on | 2 MiB | 2 MiB | 100 |" in text
    assert "| 50 | huge_pages=on | 0.001 | 0.001 | 0.050 | 1.000 | 1.250 |" in text
    assert "| huge_pages=off | 200 ms (100 ms to 300 ms) | 1 ms | - | - | 7 | 500 |" in text
    assert "| mshare run --fill later | 100 ms | 1 ms | 1,234 ms | - | - | 500 |" in text
    assert "not measured: z" in text
    assert "- times are distorted" in text
    assert "maps only what it has touched" in text
    assert "decides no target" in text
    assert "above 1" not in text
    assert "start 1.50: **above 1" in page({**DOCUMENT, "load_1min": [1.5, 2.0]}, results, [])


def test_the_page_of_a_guest_says_that_times_are_not_real() -> None:
    text = page({**DOCUMENT, "machine": {"cpu": "QEMU TCG CPU"}}, Results([], []), [])
    assert text.startswith("# PostgreSQL in a guest")
    assert "times are not real" in text
    assert "not real" not in page(DOCUMENT, Results([], []), [])


GOOD = Results(
    [
        *(a_run(STOCK, 400 * MIB) for _ in range(3)),
        *(a_run(each, 25 * MIB) for each in (LATER, AHEAD, COLLAPSE)),
        *(a_run(HUGE, 24 * MIB, tps=tps) for tps in (900.0, 1100.0, 1000.0)),
    ],
    [a_start(each) for each in SETTINGS],
)


def missed(results: Results, *, timed: bool = True) -> list[str]:
    return [each.text for each in targets(results, 2 * GIB, timed=timed) if not each.met]


def test_targets_that_hold() -> None:
    assert len(list(targets(GOOD, 2 * GIB, timed=True))) == 3 * 3 + 1
    assert missed(GOOD) == []
    document = {**DOCUMENT, "size_bytes": 2 * GIB}
    assert "times those with huge_pages=off | 0.062 (PageTables), 0.062 (VmPTE) | held |" in page(document, GOOD, [])


def test_targets_are_for_one_load_only() -> None:
    assert list(targets(GOOD, GIB, timed=True)) == []
    others = Results([a_run(each, MIB, clients=50) for each in SETTINGS], [])
    assert list(targets(others, 2 * GIB, timed=True)) == []


@pytest.mark.parametrize(
    ("setting", "tables", "tps", "said"),
    [
        (LATER, 41 * MIB, 1000.0, ["0.1 times those with huge_pages=off", "1.1 times those with huge_pages=on"]),
        (AHEAD, 27 * MIB, 1000.0, ["1.1 times those with huge_pages=on"]),
        (COLLAPSE, 24 * MIB, 799.0, ["tps of 200 clients"]),
        (COLLAPSE, 24 * MIB, 801.0, []),
    ],
)
def test_a_missed_target_names_the_setting(setting: str, tables: int, tps: float, said: list[str]) -> None:
    kept = [run for run in GOOD.runs if run.setting != setting]
    results = Results([*kept, a_run(setting, tables, tps=tps)], GOOD.starts)
    found = missed(results)
    assert all(text.startswith(f"{setting}: ") for text in found)
    assert [text for text, part in zip(found, said, strict=True) if part not in text] == []
    document = {**DOCUMENT, "size_bytes": 2 * GIB}
    assert ("**missed**" in page(document, results, [])) == bool(said)


def test_a_slow_start_is_missed_where_times_are_real() -> None:
    slow = Results(GOOD.runs, [a_start(STOCK), a_start(LATER, 1101.0)])
    assert len(missed(slow)) == 1
    assert "start" in missed(slow)[0]
    assert missed(slow, timed=False) == []


@pytest.mark.parametrize(
    ("faults", "elsewhere", "value", "met"),
    [
        ((0, 0), 157, "0 (157 with huge_pages=off)", True),
        ((0, 1), 157, "1 (157 with huge_pages=off)", False),
        ((0, 0), 0, "0 (0 with huge_pages=off)", False),
    ],
)
def test_a_fault_on_shared_page_tables_is_missed_at_any_size(
    faults: tuple[int, ...], elsewhere: int, value: str, met: bool
) -> None:
    starts = [a_start(STOCK, faults=elsewhere), *(a_start(MSHAREFS, faults=each) for each in faults)]
    (found,) = targets(Results([], starts), MIB, timed=False)
    assert (found.value, found.met) == (value, met)
