"""`mshare lab` in a control group of version 2, which the guest has: the clients that die there.

`make prove` shows the clients that live on.
"""

from pathlib import Path

import pytest

from mshare._tools.lab import sga
from mshare._tools.lab.limit import control_group
from mshare._tools.lab.run import V2, Run

KIB, MIB = 1 << 10, 1 << 20
SIZE = 32 * MIB


def load(mechanism: str, limit_bytes: int, clients: int) -> Run:
    with control_group(limit_bytes) as limit:
        assert limit.kind == V2
        run = sga.conduct(mechanism, sga.Load(SIZE, clients, samples=10), limit)
        group = limit.group
        assert group is not None
    assert not group.exists()
    assert not Path("/dev/shm", f"mshare-lab-{group.name.rpartition('-')[2]}").exists()
    return run


def test_private_tables_fill_the_group_and_the_kernel_kills_in_it() -> None:
    run = load("plain", 75 * MIB, 300)
    assert 0 < run.reached < 300
    assert run.ended_by == sga.OUT_OF_MEMORY
    assert run.oom_kills >= 1
    assert run.wrong == 0
    # 16 tables of 4 KiB, and the one or two above; a group counts in batches of pages.
    assert run.per_client_bytes() == pytest.approx(72 * KIB, rel=0.3)
    assert "invoked oom-killer" in run.oom_log[0]
    assert "oom_memcg=/mshare-lab-" in " ".join(run.oom_log)
    assert (run.survivors + run.killed_later, run.newcomer) == (run.asked, "ok")
    assert 0 < run.asked <= run.reached
