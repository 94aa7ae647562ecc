"""The table of runs: its text for a run that died, for an unusable run, and for a hostile name."""

from __future__ import annotations

from dataclasses import replace

from mshare._tools.lab.run import MACHINE, V2, Run, Sample, Spread
from mshare._tools.lab.show import client_table, memory_table, notes

MIB = 1 << 20
DEAD = Run(
    "plain", "tmpfs", 100 * MIB, 4096, 50, "machine", 200 * MIB,
    samples=(Sample(1, 3 * MIB, 90 * MIB), Sample(11, 13 * MIB, 0)),
    base=(Sample(1, MIB, 99 * MIB), Sample(11, MIB, 89 * MIB)),
    created_tables_bytes=MIB, reached=12, ended_by="out of memory", oom_kills=3, faults=Spread(1600, 1600, 1601),
    all_read_s=3.25, fork_ns=1_500_000, exit_ns=2_000_000, asked=11, survivors=11, newcomer="gone",
)  # fmt: skip


def cells(run: Run) -> dict[str, str]:
    return {
        header: cell
        for table in (memory_table([run], 50), client_table([run]))
        for header, cell in zip(table.headers, table.rows[0], strict=True)
    }


def test_a_run_that_died_is_marked_and_extrapolated() -> None:
    row = cells(DEAD)
    assert row["CLIENTS"] == "12 †"
    assert row["PAGE TABLES"] == "13 MiB"
    assert row["EACH MORE"] == "1 MiB"
    assert row["FOR 50"] == "51 MiB"
    assert (row["FAULTS"], row["SURVIVE"], row["NEWCOMER"]) == ("1,600", "11 of 11", "no")
    assert any(line.startswith("†") for line in notes([DEAD]))


def test_a_way_that_cannot_be_used_has_a_row_and_its_reason() -> None:
    gone = replace(DEAD, label="other\x1b[2J", unavailable="no \x1b module", oom_kills=0)
    assert cells(gone)["MECHANISM"] == "other\\x1b[2J"
    assert notes([gone]) == ["other\\x1b[2J cannot be had: no \\x1b module"]
    assert any(line.endswith("no \\x1b module") for line in notes([DEAD, gone]))


def test_a_region_that_the_group_is_not_charged_for_is_named() -> None:
    grouped = replace(DEAD, limit_kind=V2)
    pool = replace(grouped, label="from the pool", charged=False)
    assert not any("not charged" in line for line in notes([grouped]))
    assert any("FREE LEFT of from the pool is without" in line for line in notes([grouped, pool]))
    assert not any("not charged" in line for line in notes([replace(pool, limit_kind=MACHINE)]))


def test_a_sparse_region_says_so() -> None:
    assert any(line.startswith("Sparse") for line in notes([replace(DEAD, step_bytes=2 * MIB)]))
    assert not any(line.startswith("Sparse") for line in notes([DEAD]))
