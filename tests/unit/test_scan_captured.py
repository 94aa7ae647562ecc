"""Snapshots of a real server, read on another machine: PostgreSQL 15, shared_buffers 1 GB, 50 clients that read it all.

tests/data/README.md says how the snapshots were taken. `PageTables` had grown by 98.2 MiB then.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare._tools.scan.groups import groups
from mshare._tools.scan.saved import dump, load
from mshare._tools.scan.show import table
from mshare._tools.scan.survey import ObjectUsage, survey

DATA = Path(__file__).parents[1] / "data"
MIB = 1 << 20


def shared_buffers(name: str) -> ObjectUsage:
    found = survey(load((DATA / name).read_bytes()))
    usage = found.usages[0]  # nothing costs more
    assert usage.size > 1 << 30
    assert usage.shared
    return usage


def test_bounds_hold_what_walking_found() -> None:
    bounded, walked = shared_buffers("postgres-15.snapshot"), shared_buffers("postgres-15-exact.snapshot")
    assert bounded.by_process.keys() == walked.by_process.keys()
    assert bounded.now.lower <= walked.now.likely <= bounded.now.upper
    assert walked.now.lower == walked.now.upper
    assert 90 * MIB < walked.now.likely < 106 * MIB


@pytest.mark.parametrize("name", ["postgres-15.snapshot", "postgres-15-exact.snapshot"])
def test_it_reads_as_it_was_written(name: str) -> None:
    raw = (DATA / name).read_bytes()
    snapshot = load(raw)
    assert load(dump(snapshot)) == snapshot
    found = survey(snapshot)
    assert all(each.isprintable() for row in table(found, least=0).rows for each in row)
    (group,) = groups(snapshot, found, "user")
    assert group.name == "postgres"
    assert len(group.pids) == len(snapshot.processes)
    assert sum(each.vmpte for each in groups(snapshot, found, "command")) == found.totals.processes
