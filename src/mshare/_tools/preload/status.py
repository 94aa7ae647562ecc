"""The state of the shared memory of a running process: which mappings have cheap page tables, and which do not.
May depend on: library, collect, findings, scan, linux, geometry, units.

The kernel is asked, and not the library: the report is also right for a program that was started without `mshare run`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from ..._core.geometry import PMD
from ..._core.linux.proc import maps
from ..._core.units import format_size
from ..collect import collect
from ..collect.collector import Choice
from ..findings import ADVICE, OK, Finding
from ..scan.show import label
from ..scan.snapshot import Object
from . import library


@dataclass(frozen=True, slots=True)
class Mapping:
    """One shared mapping of the process, of at least 2 MiB."""

    start: int
    length: int
    object: Object
    leaf_bytes: int
    """Bytes that this process has mapped by 2 MiB leaves."""
    page_bytes: int
    """Bytes that this process has mapped by 4 KiB pages."""
    aligned: bool
    """The address fits 2 MiB leaves."""
    verdict: str
    """The meaning of the state, in a few words."""
    cheap: bool
    """The page tables of this mapping are shared, or its leaves map 2 MiB or more."""


@dataclass(frozen=True, slots=True)
class Status:
    """A process and its shared mappings."""

    pid: int
    command: str
    library: str
    """Path of the preload library in this process; empty: the process does not have it."""
    vmpte_bytes: int
    """`VmPTE` of /proc/PID/status."""
    mappings: tuple[Mapping, ...]


def status(pid: int) -> Status:
    """Look at the process. Walks its page tables: 3 ns per entry.

    Raises `ProcessLookupError`, `PermissionError` if the process is not this user's.
    """
    snapshot = collect(choice=Choice(pids=[pid]), exact=True)
    (process,) = (each for each in snapshot.processes if each.pid == pid)
    if process.areas is None:
        raise PermissionError(errno.EACCES, "this process is not yours to look at: use sudo", f"/proc/{pid}/maps")
    found = []
    for at, area in enumerate(process.areas):
        if not area.shared or area.end - area.start < PMD or area.object < 0:
            continue
        thing = snapshot.objects[area.object]
        if thing.kind in ("file", "device"):
            continue
        mapped = {True: 0, False: 0}
        for each in process.filled or ():
            if each.area == at:
                mapped[each.leaf >= PMD] += each.end - each.start
        verdict, cheap = _judge(thing, area.start, area.offset, mapped[True], mapped[False])
        aligned = (area.start - area.offset) % PMD == 0
        length = area.end - area.start
        found.append(Mapping(area.start, length, thing, mapped[True], mapped[False], aligned, verdict, cheap))
    return Status(pid, process.command, _library(pid), process.vmpte, tuple(found))


def _library(pid: int) -> str:
    paths = {os.fsdecode(vma.path) for vma in maps(pid)}
    return next((path for path in sorted(paths) if Path(path).name == library.NAME), "")


def _judge(thing: Object, start: int, offset: int, leaf_bytes: int, page_bytes: int) -> tuple[str, bool]:
    """Return what became of a mapping, and whether its page tables are cheap."""
    if thing.kind == "msharefs":
        return "shared page tables", True
    if thing.kind == "hugetlb":
        return "hugetlb pages", True
    if (start - offset) % PMD:
        return "4 KiB pages: the address is not aligned to 2 MiB", False
    if not leaf_bytes and not page_bytes:
        return "aligned to 2 MiB, not touched by this process", True
    if not page_bytes:
        return "2 MiB leaves", True
    if leaf_bytes:
        return "partly 2 MiB leaves", True
    return "aligned to 2 MiB, but 4 KiB pages: use mshare collapse", False


def findings(found: Status) -> list[Finding]:
    """Return what became of the process's shared memory, and the command that would change what is not cheap."""
    process = f"process {found.pid} ({found.command})"
    if found.library:
        text = f"{process} has the preload library {found.library}"
    else:
        text = f"{process} does not have the preload library: it was not started by mshare run, or lost LD_PRELOAD"
    listed = [Finding(OK, "mshare run", text)]
    if not found.mappings:
        listed.append(Finding(OK, "shared memory", "none of 2 MiB or more"))
    for each in found.mappings:
        described = f"{format_size(each.length)} at {each.start:#x}, {label(each.object)}: {each.verdict}"
        command = f"sudo mshare collapse --pid {found.pid}" if each.aligned and not each.cheap else ""
        remedy = "" if each.cheap or command else "; start the program with `mshare run`"
        level = OK if each.cheap else ADVICE
        listed.append(Finding(level, "shared memory", described + remedy, command))
    return listed
