"""How much memory a new region may take without making somebody pay for it later. May depend on: proc, procfs."""

from __future__ import annotations

import resource
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..procfs import parse_cgroup
from .proc import memory_fields

_CGROUP_ROOT = Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Bytes that can still be had, and what sets that limit."""

    free_bytes: int
    limit: str


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, not ours to read, or "max"
        return None


def _reclaimable(group: Path) -> int:
    """Bytes of page cache in the group that the kernel gives back before it kills anybody."""
    try:
        lines = (group / "memory.stat").read_text().split("\n")
    except OSError:
        return 0
    values = {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    return values.get("inactive_file", 0) + values.get("active_file", 0)


def cgroup_room() -> Room | None:
    """Return the room left in this process's memory control groups (v2 or v1), the tightest of all levels; None if
    there is no limit. Source: Documentation/admin-guide/cgroup-v2.rst, `memory.max`."""
    tightest: Room | None = None
    try:
        groups = parse_cgroup(Path("/proc/self/cgroup").read_bytes())
    except OSError:
        return None
    for controllers, path in groups:
        if controllers and "memory" not in controllers:
            continue
        root, limit_name, usage_name = (
            (_CGROUP_ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else (_CGROUP_ROOT, "memory.max", "memory.current")
        )
        here = PurePosixPath(path)
        for level in (here, *here.parents):
            group = root / str(level).lstrip("/")
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if limit is None or usage is None:
                continue
            room = Room(max(0, limit - usage + _reclaimable(group)), f"memory limit of control group {level}")
            if tightest is None or room < tightest:
                tightest = room
    return tightest


def _limit(which: int) -> int | None:
    limit = resource.getrlimit(which)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def file_size_limit() -> int | None:
    """Return the bytes a file that this process makes may have (`RLIMIT_FSIZE`, `ulimit -f`); None if any number."""
    return _limit(resource.RLIMIT_FSIZE)


def address_space_limit() -> int | None:
    """Return the bytes of addresses that this process may map (`RLIMIT_AS`, `ulimit -v`); None if any number."""
    return _limit(resource.RLIMIT_AS)


def locked_limit() -> int:
    """Return the bytes that this process may lock in memory (`RLIMIT_MEMLOCK`, `ulimit -l`)."""
    return _limit(resource.RLIMIT_MEMLOCK) or 0


def descriptor_limit() -> int:
    """Return how many descriptors this process may have (`RLIMIT_NOFILE`, `ulimit -n`)."""
    return _limit(resource.RLIMIT_NOFILE) or 0


def memory_room() -> Room:
    """Return the memory a region made of ordinary pages can still take: `MemAvailable` and free swap of
    /proc/meminfo less 1/64 of all memory for everybody else (taking the last page calls the OOM killer, not an
    error), or the control group's room where that is less."""
    fields = memory_fields()
    free_bytes = fields["MemAvailable"] + fields.get("SwapFree", 0) - fields["MemTotal"] // 64
    room = Room(max(0, free_bytes), "memory available on this machine")
    limited = cgroup_room()
    return min(room, limited) if limited is not None else room
