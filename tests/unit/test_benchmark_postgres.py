"""The PostgreSQL benchmark's parsers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.postgres import HUGE, STOCK, PgbenchRun, children_faults, page, parse_pgbench

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


def test_the_report_has_medians_and_ratios_within_the_run() -> None:
    runs = [
        PgbenchRun(setting, 50, tps, 1.0, tps, 1.0, tables, tables, faults)
        for setting, tps, tables, faults in [
            (STOCK, 100.0, 1 << 30, 1000),
            (STOCK, 300.0, 3 << 30, 3000),
            (HUGE, 250.0, 1 << 21, 100),
        ]
    ]
    document = {
        "machine": {"cpu": "QEMU TCG CPU version 2.5+", "virtual": True},
        "command": "it",
        "load_1min": [0.0, 0.0],
        "size_bytes": 1 << 30,
        "seconds": 1,
        "rounds": 1,
    }
    text = page({**document, "missing": ["z"]}, runs)
    assert "| 50 | huge_pages=off | 2 GiB (1 GiB to 3 GiB) | 2 GiB (1 GiB to 3 GiB) | 2,000 |" in text
    assert "| 200 (100 to 300) |" in text
    assert "| 50 | huge_pages=on | 2 MiB | 2 MiB | 100 |" in text
    assert "| 50 | 0.001 | 0.001 | 0.050 | 1.250 |" in text
    assert "not measured: z" in text
    assert "times are distorted" in text
    assert "maps only what it has touched" in text
    assert "above 1" not in text
    assert "start 1.50: **above 1" in page({**document, "missing": [], "load_1min": [1.5, 2.0]}, runs)
