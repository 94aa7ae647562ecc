"""The PostgreSQL benchmark's parsers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.postgres import HUGE, STOCK, Run, children_faults, markdown, parse_pgbench

OUTPUT = """pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
number of transactions actually processed: 155000
latency average = 3.225 ms
initial connection time = 151.020 ms
tps = 15503.876969 (without initial connection time)
"""


def test_pgbench_output() -> None:
    assert parse_pgbench(OUTPUT) == {"tps": 15503.876969, "latency_ms": 3.225, "connect_ms": 151.02}


def test_output_without_a_figure_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="tps"):
        parse_pgbench(OUTPUT.replace("tps = 1", "tps: 1"))


@given(st.binary(max_size=15), st.integers(0, 2**63))
def test_faults_of_children_whatever_the_command_is_called(name: bytes, faults: int) -> None:
    stat = b"7 (" + name + b") S 1 1 1 0 -1 4194560 11 %d 13 14" % faults
    assert children_faults(stat) == faults


def test_faults_of_children_in_a_real_line() -> None:
    assert children_faults(Path("/proc/self/stat").read_bytes()) >= 0


def test_the_report_has_medians_and_ratios_within_the_run() -> None:
    runs = [
        Run(setting, 50, tps, 1.0, 1.0, tables, tables, faults)
        for setting, tps, tables, faults in [
            (STOCK, 100.0, 1 << 30, 1000),
            (STOCK, 300.0, 3 << 30, 3000),
            (HUGE, 250.0, 1 << 21, 100),
        ]
    ]
    document = {
        "machine": {},
        "command": "it",
        "load_1min": [0.0, 0.0],
        "size_bytes": 1 << 30,
        "seconds": 1,
        "rounds": 1,
    }
    text = markdown({**document, "missing": ["z"]}, runs)
    assert "| 50 | huge_pages=off | 2 GiB | 2 GiB | 2,000 |" in text
    assert "| 50 | 0.001 | 0.050 | 1.250 |" in text
    assert "not measured: z" in text
