"""The comparison's crowd: the helpers that its processes start, and the reason why the crowd stopped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.compare import crowd
from benchmarks.compare.actor import actor
from mshare.measure import Nothing, SharedMemory
from mshare.measure.child import Child

pytestmark = pytest.mark.machine

_NAME = f"mshare-test-crowd-{os.getpid()}"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_processes_share_one_resource_tracker() -> None:
    mechanism = SharedMemory()
    with actor(mechanism) as creator, Child(crowd._PROGRAM, mechanism.spec, creator.make(_NAME, 1 << 20)) as zygote:
        zygote.answer()
        zygote.ask(count=3, limit_s=60.0)
        assert zygote.answer() == {"attached": 3, "stopped": ""}
        forked = children(zygote.pid)
        assert len(forked) == 3 + 1
        assert [grandchild for child in forked for grandchild in children(child)] == []


def test_a_limit_of_the_benchmark_is_no_failure_of_the_mechanism() -> None:
    assert crowd._gather(Nothing(), "", 3, -1.0) == {
        "attached": 0,
        "stopped": "stopped by this benchmark, after -1 s",
        "cut": True,
    }
