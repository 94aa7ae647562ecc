"""How much memory a new region may take without making somebody pay for it later. May depend on: files, proc, procfs,
typed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from ..procfs import parse_cgroup
from ..typed import NamedTuple
from .files import read_bytes
from .proc import memory_fields

_CGROUP_ROOT = "/sys/fs/cgroup"


class Room(NamedTuple):
    """Bytes that can still be had, and what sets that limit."""

    free_bytes: int
    limit: str


def _number(path: str) -> int | None:
    try:
        return int(read_bytes(path))
    except (OSError, ValueError):  # not there, not ours to read, or "max"
        return None


def _reclaimable(group: str) -> int:
    """Bytes of page cache in the group that the kernel gives back before it kills anybody."""
    try:
        lines = read_bytes(f"{group}/memory.stat").decode().split("\n")
    except OSError:
        return 0
    values = {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    return values.get("inactive_file", 0) + values.get("active_file", 0)


def _levels(path: str) -> Iterator[str]:
    """Yield the absolute path of a control group and of each that it is in, up to the root."""
    while path.strip("/"):
        yield path
        path = os.path.dirname(path)
    yield "/"


def cgroup_room() -> Room | None:
    """Return the room left in this process's memory control groups (v2 or v1), the tightest of all levels; None if
    there is no limit. Source: Documentation/admin-guide/cgroup-v2.rst, `memory.max`."""
    tightest: Room | None = None
    try:
        groups = parse_cgroup(read_bytes("/proc/self/cgroup"))
    except OSError:
        return None
    for controllers, path in groups:
        if controllers and "memory" not in controllers:
            continue
        root, limit_name, usage_name = (
            (f"{_CGROUP_ROOT}/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else (_CGROUP_ROOT, "memory.max", "memory.current")
        )
        for level in _levels(path):
            group = root + level.rstrip("/")
            limit, usage = _number(f"{group}/{limit_name}"), _number(f"{group}/{usage_name}")
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
