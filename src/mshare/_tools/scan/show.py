"""A survey as a table, as lines and as JSON. Pure. May depend on: groups, snapshot, survey, table, units.

Paths and names are other people's: everything for a terminal passes `printable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..._core.units import format_list, format_size
from ..table import Table, printable
from .groups import Group, user
from .snapshot import Object, Snapshot
from .survey import Bytes, ObjectUsage, Survey, WhatIf

PRIVATE_MEMORY = "(private memory)"
_NAMELESS = re.compile(r"/#\d+$")
"""The path of a file that was made with O_TMPFILE, in /proc/PID/maps."""


def label(thing: Object | None) -> str:
    """Return the raw name of an object: its path, or the kernel's name for it."""
    if thing is None:
        return PRIVATE_MEMORY
    if thing.region:
        return f"region {thing.region}"
    name = thing.path.removeprefix("/")
    if thing.path.startswith("/SYSV") and thing.kind in ("SysV", "hugetlb"):
        return f"SysV {thing.ino} (key 0x{name.removeprefix('SYSV')})"
    if thing.kind in ("memfd", "device") or (thing.kind == "hugetlb" and thing.path.startswith("/memfd:")):
        return name
    if thing.kind == "anonymous":
        return f"shared anonymous #{thing.ino}"
    if thing.kind == "hugetlb" and thing.path == "/anon_hugepage":
        return f"anonymous huge pages #{thing.ino}"
    if thing.kind == "msharefs" and thing.deleted and _NAMELESS.search(thing.path):
        return f"anonymous on msharefs #{thing.ino}"  # of `mshare run`, or a region without a name
    return thing.path + (" (deleted)" if thing.deleted else "")


def short(text: str) -> str:
    """Return a text with sizes as a table has them: `1.04G` for `1.04 GiB`, `20K..4.66M` for `20 KiB..4.66 MiB`."""
    return text.replace(" ", "").replace("iB", "")


def leaves(thing: Object | None) -> str:
    """Return the leaf sizes in use, `?` if they are unknown, `-` for private memory."""
    if thing is None:
        return "-"
    return "+".join(short(format_size(leaf)) for leaf in thing.leaves) or "?"


def bounds(now: Bytes) -> str:
    """Return one size, or two if the bounds are not the same three digits: `49.5..52 MiB`."""
    low, high = format_size(now.lower), format_size(now.upper)
    if low == high:
        return high
    number, _, unit = low.partition(" ")
    return f"{number if unit == high.partition(' ')[2] else low}..{high}"


def split(
    usages: Iterable[ObjectUsage], least: int, most: int | None = None
) -> tuple[list[ObjectUsage], list[ObjectUsage]]:
    """Return at most `most` usages with at least `least` bytes of page tables (upper bound), and the others."""
    shown: list[ObjectUsage] = []
    others: list[ObjectUsage] = []
    for usage in usages:
        (shown if usage.now.upper >= least and (most is None or len(shown) < most) else others).append(usage)
    return shown, others


def _cells(usage: ObjectUsage, processes: int | None) -> tuple[str, ...]:
    what_if = usage.what_if(processes)
    at = (("-" if what_if is None else short(format_size(what_if.now))),) if processes else ()
    return (
        short(bounds(usage.now)),
        *at,
        *(("-",) * 3 if what_if is None else (short(format_size(size)) for size in what_if[1:])),
        short(format_size(usage.size)),
        leaves(usage.object),
        str(usage.processes),
        printable(label(usage.object)),
    )


def table(survey: Survey, *, least: int, most: int | None = None, processes: int | None = None) -> Table:
    """Return the objects that cost at least `least` bytes, `most` of them at most; the others in one line. `processes`
    computes the columns to the right of NOW for so many."""
    shown, others = split(survey.usages, least, most)
    at = (f"AT {processes}",) if processes else ()
    headers = ("NOW", *at, "SHARED", "2M", "1G", "SIZE", "LEAF", "PROCS", "OBJECT")
    rows = [_cells(usage, processes) for usage in shown]
    if others:
        rest = Bytes.total(usage.now for usage in others)
        rows.append((short(bounds(rest)), *("",) * (len(headers) - 2), f"({len(others)} others)"))
    last = len(headers) - 1
    return Table(headers, tuple(rows), right=frozenset(range(last)), fold=last)


def groups_table(groups: Sequence[Group], key: str, least: int) -> Table:
    """Return one line per group with at least `least` bytes of page tables."""
    headers = (key.upper(), "PROCS", "VmPTE", "SHAREABLE")
    shown = [group for group in groups if group.vmpte >= least]
    rows = [
        (
            printable(group.name),
            str(len(group.pids)),
            format_size(group.vmpte),
            format_size(group.shared) + (f" ({group.unread} unread)" if group.unread else ""),
        )
        for group in shown
    ]
    if others := groups[len(shown) :]:  # they are in order of their page tables
        count, vmpte = sum(len(group.pids) for group in others), sum(group.vmpte for group in others)
        rows.append((f"({len(others)} others)", str(count), format_size(vmpte), ""))
    return Table(headers, tuple(rows), right=frozenset({1, 2, 3}))


def totals(snapshot: Snapshot, survey: Survey) -> list[tuple[str, str]]:
    """Return the sum of all page tables against /proc/meminfo, as pairs of label and text."""
    sums = survey.totals
    read = sum(process.areas is not None for process in snapshot.processes)
    lines = [
        ("PageTables", f"{format_size(sums.page_tables)} on {printable(snapshot.system.host)} (/proc/meminfo)"),
        ("  in processes", f"{format_size(sums.processes)}: VmPTE of {read}"),
    ]
    if survey.unreadable:
        count = sum(each.processes for each in survey.unreadable)
        users = [f"{printable(user(snapshot, each.uid))} {each.processes}" for each in survey.unreadable]
        whose = f"VmPTE of {count} whose mappings are closed to you ({format_list(users, 8)})"
        lines.append(("  unreadable", f"{format_size(sums.unreadable)}: {whose}"))
    if sums.counted_twice:
        lines.append(("  in memory once", f"-{format_size(sums.counted_twice)}: hugetlb tables shared by the kernel"))
    if sums.regions:
        lines.append(("  msharefs", f"{format_size(sums.regions)}: the regions' own tables"))
    if not snapshot.partial:
        rest = sums.unexplained
        why = f"the kernel's own, and at most {format_size(sums.top_tables)} of topmost tables, where it counts them"
        if rest < 0:
            why = f"at most {format_size(sums.pud_tables)} of PUD pages are in VmPTE, and not here on older kernels"
        part = f", {100 * rest / sums.page_tables:.0f} %" if rest > 0 and sums.page_tables else ""
        lines.append(("  unexplained", f"{format_size(rest)}{part}: {why}"))
    if sums.empty:
        lines.append(("without entries", f"{format_size(sums.empty)} of the processes' page tables"))
    return lines


def remarks(snapshot: Snapshot, survey: Survey) -> list[str]:
    """Return sentences about facts that are not in the table, one sentence each."""
    found = [printable(each) for each in snapshot.system.blind]
    if snapshot.partial:
        found.append("only chosen processes were read: the total explains no more than theirs")
    if survey.unreadable:
        found.append(
            "to read the closed mappings takes CAP_SYS_PTRACE, which root has, and no fewer rights than theirs"
        )
    if survey.nested:
        found.append(
            f"{survey.nested} processes are in PID namespaces of their own (containers); paths are as they see them"
        )
    if snapshot.vanished:
        found.append(f"{snapshot.vanished} processes ended while they were read")
    if not survey.exact:
        found.append("NOW has bounds from VmPTE and the mappings; --exact walks the page tables")
    return found


def usage_json(usage: ObjectUsage, processes: int | None) -> dict[str, Any]:
    """Return one object as JSON has it: exact bytes."""
    thing = usage.object

    def costs(what_if: WhatIf | None) -> dict[str, int] | None:
        return None if what_if is None else what_if._asdict()

    return {
        "object": label(thing),
        "kind": "private" if thing is None else thing.kind,
        "path": None if thing is None else thing.path,
        "deleted": thing is not None and thing.deleted,
        "dev": None if thing is None else thing.dev,
        "ino": None if thing is None else thing.ino,
        "region": None if thing is None or not thing.region else thing.region,
        "size": usage.size,
        "leaves": [] if thing is None else list(thing.leaves),
        "processes": usage.processes,
        "page_table_bytes": usage.now._asdict(),
        "what_if": costs(usage.what_if()),
        "projected": costs(usage.what_if(processes)) if processes else None,
        "by_process": {str(pid): cost for pid, cost in sorted(usage.by_process.items())},
    }


def survey_json(snapshot: Snapshot, survey: Survey, *, least: int, processes: int | None = None) -> dict[str, Any]:
    """Return everything about a survey, objects below `least` bytes left out."""
    shown, others = split(survey.usages, least)
    return {
        "taken": snapshot.taken,
        "host": snapshot.system.host,
        "kernel": snapshot.system.kernel,
        "exact": survey.exact,
        "objects": [usage_json(usage, processes) for usage in shown],
        "objects_left_out": len(others),
        "totals": {**survey.totals._asdict(), "explained": round(survey.totals.explained, 4)},
        "processes": {
            "read": sum(process.areas is not None for process in snapshot.processes),
            "unreadable": [each._asdict() for each in survey.unreadable],
            "vanished": snapshot.vanished,
            "in_pid_namespaces": survey.nested,
        },
        "remarks": remarks(snapshot, survey),
    }


def groups_json(groups: Sequence[Group], key: str) -> dict[str, Any]:
    """Return groups as JSON has them."""
    return {"by": key, "groups": [group._asdict() for group in groups]}
