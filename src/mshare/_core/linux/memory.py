"""The memory that a new region may take without harm to other programs later. May depend on: files, libc,
mempolicy, proc, procfs, typed."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

from ..procfs import parse_cgroup
from ..typed import NamedTuple
from . import mempolicy
from .files import read_bytes
from .libc import free_memory
from .proc import memory_fields

_CGROUP_ROOT = "/sys/fs/cgroup"


class Room(NamedTuple):
    """Bytes that are still available, and the name of the limit."""

    free_bytes: int
    limit: str


def _number(path: str) -> int | None:
    try:
        return int(read_bytes(path))
    except (OSError, ValueError):  # absent, unreadable, or "max"
        return None


def _reclaimable(group: str) -> int:
    """Bytes of page cache in the group that the kernel gives back before it kills a process."""
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


def cgroup_room(pid: int | str = "self") -> Room | None:
    """Return the room left in a process's memory control groups (v2 or v1), the tightest of all levels; None if
    there is no limit. Source: Documentation/admin-guide/cgroup-v2.rst, `memory.max`."""
    tightest: Room | None = None
    try:
        groups = parse_cgroup(read_bytes(f"/proc/{pid}/cgroup"))
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


def hidden_cgroup() -> str:
    """Return the control group of this process whose memory limit cannot be seen from here, or "".

    A sandbox can have no control groups mounted. A control group namespace can have the mount of its host, where the
    path of this process's group means another group. A group is therefore believed only if it lists this process.
    """
    try:
        groups = parse_cgroup(read_bytes("/proc/self/cgroup"))
    except OSError as error:
        return f"(unknown, {error.filename} cannot be read)" if os.path.exists(_CGROUP_ROOT) else ""
    places = [(f"{_CGROUP_ROOT}/memory", path) for controllers, path in groups if "memory" in controllers]
    places = places or [(_CGROUP_ROOT, path) for controllers, path in groups if not controllers]
    return next((path for root, path in places if not _lists_this_process(root + path)), "")


def _lists_this_process(group: str) -> bool:
    try:
        return str(os.getpid()).encode() in read_bytes(f"{group}/cgroup.procs").split()
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP  # a threaded group, which is in its place


def _limit(which: int) -> int | None:
    limit = resource.getrlimit(which)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def file_size_limit() -> int | None:
    """Return the largest size of a file that this process makes (`RLIMIT_FSIZE`, `ulimit -f`); None: no limit."""
    return _limit(resource.RLIMIT_FSIZE)


def address_space_limit() -> int | None:
    """Return the bytes of addresses that this process may map (`RLIMIT_AS`, `ulimit -v`); None: no limit."""
    return _limit(resource.RLIMIT_AS)


def locked_limit() -> int:
    """Return the bytes that this process may lock in memory (`RLIMIT_MEMLOCK`, `ulimit -l`)."""
    return _limit(resource.RLIMIT_MEMLOCK) or 0


def descriptor_limit() -> int:
    """Return how many descriptors this process may have (`RLIMIT_NOFILE`, `ulimit -n`)."""
    return _limit(resource.RLIMIT_NOFILE) or 0


def node_room(node: int) -> Room:
    """Return the memory that a region of ordinary pages can still take on one memory node.

    The kernel has no `MemAvailable` of a node. The figure is the free memory and the page cache of files in the node's
    meminfo, less 1/32 of the node's memory: a policy that allows one node calls the OOM killer on the last page.
    """
    fields = mempolicy.meminfo(node)
    usable = fields["MemFree"] + fields["Active(file)"] + fields["Inactive(file)"]
    return Room(max(0, usable - fields["MemTotal"] // 32), f"memory available on node {node}")


def memory_room() -> Room:
    """Return the memory that a region of ordinary pages can still take.

    The figure is `MemAvailable` and free swap of /proc/meminfo, less 1/64 of all memory for other programs, because
    the last page calls the OOM killer and gives no error. If the control group has less room, that room is the figure.
    If /proc/meminfo cannot be read, the free memory of sysinfo(2) replaces `MemAvailable`. That memory is less, because
    it does not include page cache.
    """
    try:
        fields = memory_fields()
        total, free_bytes = fields["MemTotal"], fields["MemAvailable"] + fields.get("SwapFree", 0)
        limit = "memory available on this machine"
    except (OSError, KeyError):
        total, free_bytes = free_memory()
        limit = "free memory of this machine, without page cache: /proc/meminfo cannot be read"
    room = Room(max(0, free_bytes - total // 64), limit)
    limited = cgroup_room()
    return min(room, limited) if limited is not None else room
