"""The mappings of a machine at one moment: records that `collect` makes, `saved` keeps, and `survey` judges. Pure.
May depend on: nothing.

A snapshot holds everything that a survey needs, so it can be studied on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["file", "tmpfs", "msharefs", "hugetlb", "SysV", "memfd", "anonymous", "device"]
"""The kinds of objects: a file on disk, on tmpfs, on msharefs, of huge pages (whatever its name), SysV shared memory, a
memfd, shared anonymous memory (`MAP_SHARED|MAP_ANONYMOUS`, /dev/zero), or a device's memory."""


class Object(NamedTuple):
    """An object that processes map: all mappings under one identity."""

    kind: Kind
    dev: int
    """Device number as `os.makedev`, or that of the kernel's own mount."""
    ino: int
    """Inode; of SysV memory the shmid."""
    namespace: int
    """IPC namespace (its inode) of SysV memory, whose ids start again in each; else 0."""
    path: str
    """The path in /proc/PID/maps of the first process that was seen, in its mount namespace, without " (deleted)"."""
    deleted: bool
    """True if the object has lost its name. Its memory goes with the last mapping."""
    page: int
    """Bytes of the pages it is made of: 4 KiB; huge pages for hugetlb."""
    region: str = ""
    """The region's name, if the object is one of mshare's regions."""
    leaves: tuple[int, ...] = ()
    """Leaf sizes in use: all with `Snapshot.exact`, else those at some places of the largest shared mapping; empty if
    nobody could look."""


PRIVATE = -1
"""In place of an object: private anonymous memory (heap, stack, MAP_PRIVATE)."""


class Area(NamedTuple):
    """One mapping of one process."""

    start: int
    end: int
    offset: int
    """Bytes from the object's start."""
    object: int
    """Index into `Snapshot.objects`, or `PRIVATE`."""
    shared: bool
    """MAP_SHARED."""
    writable: bool


class Filled(NamedTuple):
    """Addresses of one process where there are entries (`--exact`): whole blocks, found by walking the page tables."""

    start: int
    end: int
    area: int
    """Index into `Process.areas`."""
    leaf: int
    """Bytes that one entry maps there."""


class Process(NamedTuple):
    """One process. `areas` is None if its mappings could not be read."""

    pid: int
    command: str
    """`Name` of /proc/PID/status: the kernel's 15 bytes."""
    uid: int
    cgroup: str
    namespaces: int
    """Depth of its PID namespace below ours; 0 is ours."""
    vmpte: int
    """`VmPTE` of /proc/PID/status: bytes of its page tables, the topmost (4 KiB) not included."""
    areas: tuple[Area, ...] | None
    filled: tuple[Filled, ...] | None = None
    """None unless the page tables were walked."""


class System(NamedTuple):
    """The kernel's facts about itself at the time of the snapshot."""

    host: str
    kernel: str
    memory: Mapping[str, int]
    """/proc/meminfo in bytes (`HugePages_*` in pages)."""
    settings: Mapping[str, str]
    """Chosen values of THP and huge page settings, by the path under /sys or /proc/sys."""
    blind: tuple[str, ...]
    """Reasons why hidden processes may be missing (hidepid, a PID namespace): one sentence each."""


class Snapshot(NamedTuple):
    """All of it."""

    taken: float
    """Seconds since the epoch."""
    system: System
    objects: tuple[Object, ...]
    processes: tuple[Process, ...]
    users: Mapping[int, str]
    """Names of the uids in it."""
    vanished: int
    """Processes that ended while they were read."""
    exact: bool
    """Page tables were walked."""
    partial: bool
    """Only chosen processes were read (`--pid`, `--user`)."""
