"""The columns that are stories: the creator is killed, a reader ends, the file system is full.

May depend on: actor, world, linux, measure.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mshare._core.linux import proc
from mshare.measure import Mechanism

from .actor import Refused, actor
from .world import HUGE, MSHAREFS, SHM

_NAME = "mshare-compare"
_SETTLE_S = 2.0
"""The time that helpers of the dead (resource trackers, daemons) get for their work."""


def creator(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Kill the creator with SIGKILL while a reader is attached. Does the reader go on? Can a newcomer attach while the
    reader lives? Can a newcomer attach when everybody has gone? How much memory stays?"""
    del runs
    before = _kept_bytes()
    with actor(mechanism) as reader:
        with actor(mechanism) as first:
            token = first.make(_NAME, size_bytes)
            reader.do("attach", token=token)
            reader.do("read")
            first.child.kill()
        newcomer = _newcomer(mechanism, token)
        others = reader.outcome("use")
    return {
        "others": others,
        "newcomer": newcomer,
        "later": _newcomer(mechanism, token),
        "kept_bytes": max(0, _kept_bytes() - before),
    }


def reader(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Let a reader attach, read, close and end. Can the creator go on? Can another reader attach?"""
    del runs
    with actor(mechanism) as first:
        token = first.make(_NAME, size_bytes)
        with actor(mechanism) as one:
            one.do("attach", token=token)
            one.do("read")
        return {"newcomer": _newcomer(mechanism, token), "creator": first.outcome("use")}


def full(mechanism: Mechanism, size_bytes: int, runs: int) -> dict[str, Any]:
    """Create a region of twice the free room, attach the region, and write to all of it. Which step fails, and how? If
    no step fails, where is the memory?"""
    del runs
    with actor(mechanism) as first:
        step = "create"
        try:
            token = first.do("create", name=_NAME, size=size_bytes)
            step = "attach"
            first.do("attach", token=token)
            step = "touch"
            first.do("touch")
        except (Refused, ChildProcessError) as error:
            return {"step": step, "how": str(error)}
        return {"step": "none", "how": "ok", "where": _largest_shared_file(first.child.pid)}


def _largest_shared_file(pid: int) -> str:
    """Return the path of the largest file that a process has mapped shared."""
    shared = [vma for vma in proc.maps(pid) if vma.perms.endswith("s") and vma.path]
    return os.fsdecode(max(shared, key=lambda vma: vma.span.end - vma.span.start).path) if shared else "nowhere"


def _newcomer(mechanism: Mechanism, token: str) -> str:
    """Return the outcome of attaching and reading in a new process, after helpers of the dead have done their work."""
    time.sleep(_SETTLE_S)
    with actor(mechanism) as newcomer:
        outcome = newcomer.outcome("attach", token=token)
        return newcomer.outcome("read") if outcome == "ok" else outcome


def _kept_bytes() -> int:
    """Return the bytes of shared memory in this trial's world: on its file systems, and System V segments."""
    total = 0
    for place in filter(Path.exists, (SHM, HUGE, MSHAREFS)):
        stat = os.statvfs(place)
        total += (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    size = lines[0].split().index("size")
    return total + sum(int(line.split()[size]) for line in lines[1:])
