"""Made-up snapshots of servers that no test machine has. Each process has the page tables that its mappings need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mshare._core.geometry import PAGE, PMD
from mshare._core.units import GIB, MIB
from mshare._tools.scan.case import ENABLED, SHMEM_ENABLED
from mshare._tools.scan.snapshot import PRIVATE, Area, Kind, Object, Process, Snapshot, System
from mshare._tools.scan.tables import Piece, needs

HEAP, SHARED = 0x5555_0000_0000, 0x7F00_0000_0000
NEVER = "always within_size advise [never] deny force"


class Crowd(NamedTuple):
    """Processes that all map one object, touched everywhere."""

    path: str
    size: int
    processes: int
    command: str = "worker"
    kind: Kind = "tmpfs"
    page: int = PAGE
    cgroup: str = "/"
    uid: int = 1000
    deleted: bool = False
    region: str = ""
    heap: int = 4 * MIB
    join: int = -1
    """Index of the crowd that has the processes; -1: the processes are new."""


def postgresql(size: int = 8 * GIB, count: int = 400, kind: Kind = "anonymous") -> Crowd:
    path = "/SYSV0052e2c1" if kind == "SysV" else "/dev/zero"
    unit = "/system.slice/system-postgresql.slice/postgresql@15-main.service"
    return Crowd(path, size, count, "postgres", kind, cgroup=unit, uid=105, deleted=True)


def server(
    *crowds: Crowd,
    memory: int = 64 * GIB,
    total: int = 0,
    free: int = 0,
    reserved: int = 0,
    page: int = PMD,
    shmem: str = NEVER,
    unreadable: int = 0,
    taken: float = 1_700_000_000.0,
    host: str = "db1",
) -> Snapshot:
    """Return the snapshot of such a machine. `unreadable` bytes of page tables belong to an unreadable process."""
    objects = tuple(
        Object(each.kind, 1, index + 100, 0, each.path, each.deleted, each.page, each.region)
        for index, each in enumerate(crowds)
    )
    members: list[tuple[Crowd, list[int]]] = []
    for index, each in enumerate(crowds):
        if each.join >= 0:
            for _, mapped in (member for member in members if member[1][0] == each.join):
                mapped.append(index)
        else:
            members += [(each, [index]) for _ in range(each.processes)]
    processes = [_process(1000 + pid, who, mapped, crowds) for pid, (who, mapped) in enumerate(members)]
    if unreadable:
        processes.append(Process(9, "secret", 0, "/", 0, unreadable, None))
    tables = sum(process.vmpte for process in processes) + PAGE * len(processes)
    fields = {
        **({"MemTotal": memory} if memory else {}),
        "PageTables": tables,
        "HugePages_Total": total,
        "HugePages_Free": free,
        "HugePages_Rsvd": reserved,
        "Hugepagesize": page,
    }
    settings = {SHMEM_ENABLED: shmem, ENABLED: "always [madvise] never"} if shmem else {}
    users = {105: "postgres", 1000: "app"}
    return Snapshot(
        taken, System(host, "6.12.0", fields, settings, ()), objects, tuple(processes), users, 0, False, False
    )


def _process(pid: int, who: Crowd, mapped: Sequence[int], crowds: Sequence[Crowd]) -> Process:
    areas = [Area(HEAP, HEAP + who.heap, 0, PRIVATE, False, True)]
    start = SHARED
    for index in mapped:
        areas.append(Area(start, start + crowds[index].size, 0, index, True, True))
        start += -(-crowds[index].size // GIB) * GIB
    pieces = [
        Piece(area.start, area.end, area.object, PAGE if area.object == PRIVATE else crowds[area.object].page)
        for area in areas
    ]
    _, pages = needs(pieces)
    return Process(pid, who.command, who.uid, who.cgroup, 0, pages * PAGE, tuple(areas))
