"""Regions as tables and as JSON: records in, text out. Pure. May depend on: geometry, record, units, table.

Names are chosen by others: everything that goes to a terminal passes `printable` first. JSON has the names as they
are, escaped by its own rules, and exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .._core.geometry import PAGE
from .._core.record import HeldRegion, RegionInfo
from .._core.units import format_age, format_list, format_size
from .table import Table, printable


def without(info: RegionInfo, pid: int) -> RegionInfo:
    """Return `info` as it is once process `pid`, which has just made the region, has detached."""
    pids = tuple(other for other in info.pids if other != pid)
    return info._replace(pids=pids, orphan=not pids)


def users(info: RegionInfo) -> str:
    """Return who is attached, in one word: a number of processes, `orphan`, or `others` for processes that this one may
    not see."""
    if info.orphan:
        return "orphan"
    return str(len(info.pids)) if info.pids else "others"


def regions_table(infos: Sequence[RegionInfo], now: float, owner: Callable[[int], str]) -> Table:
    """Return one line per region. `now` is seconds since the epoch; `owner` gives a user's name for a uid.

    USERS counts the attached processes this one may see; LEAF is what one last-level page-table entry maps, or `mixed`
    if that depends on how the memory came.
    """
    headers = ("NAME", "SIZE", "MODE", "OWNER", "BACKEND", "LEAF", "ADDRESS", "USERS", "AGE")
    rows = tuple(
        (
            printable(info.name),
            format_size(info.size),
            f"{info.mode:04o}",
            printable(owner(info.uid)),
            printable(info.backend),
            _leaf(info),
            f"{info.addr:#x}",
            users(info),
            format_age(now - info.created),
        )
        for info in infos
    )
    return Table(headers, rows, right=frozenset({1, 7, 8}))


def _leaf(info: RegionInfo) -> str:
    return "mixed" if _where_large(info) else format_size(info.leaf_size).replace(" ", "").removesuffix("iB")


def held_table(held: Sequence[HeldRegion]) -> Table:
    """Return one line per region that has no name any more."""
    headers = ("HELD", "SIZE", "ADDRESS", "STATE", "PROCESSES")
    rows = tuple(
        (
            printable(each.name) or "(unknown)",
            format_size(each.size),
            f"{each.addr:#x}",
            "older version" if each.superseded else "removed" if each.name else "without a name",
            format_list(each.pids),
        )
        for each in held
    )
    return Table(headers, rows, right=frozenset({1}))


def held_json(each: HeldRegion) -> dict[str, Any]:
    """Return one region without a name as JSON has it; `name` is None if no map shows a name."""
    return {
        "name": each.name or None,
        "size": each.size,
        "addr": each.addr,
        "pids": list(each.pids),
        "superseded": each.superseded,
    }


def region_fields(info: RegionInfo, now: float, owner: Callable[[int], str]) -> list[tuple[str, str]]:
    """Return everything about one region, as pairs of label and text."""
    created = datetime.fromtimestamp(info.created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    unseen = "processes that you cannot see (another user's or another container's)"
    attached = ", ".join(map(str, info.pids)) or ("nobody: an orphan" if info.orphan else unseen)
    rights = " (frozen: nobody may attach it read-write)" if info.frozen else ""
    return [
        ("name", printable(info.name)),
        ("size", f"{format_size(info.size)} ({info.size} bytes)"),
        ("mode", f"{info.mode:04o}{rights}"),
        ("owner", f"{printable(owner(info.uid))} (uid {info.uid})"),
        ("address", f"{info.addr:#x}"),
        ("backend", printable(info.backend)),
        ("why", printable(info.reason)),
        ("leaf", f"{format_size(info.leaf_size)} per last-level page-table entry{_where_large(info)}"),
        ("page tables", f"{format_size(info.page_table_bytes)} per process that touches all of it (arithmetic)"),
        ("memory", _memory(info)),
        ("attached", attached),
        ("created", f"{created} ({format_age(now - info.created)} ago)"),
        ("file", printable(info.path)),
    ]


def _where_large(info: RegionInfo) -> str:
    """Return the part of the region that has leaves of the stated size, if it is not all of the region."""
    mixed = not info.reserved and info.leaf_size != info.map_unit == PAGE
    return " where populate has filled whole blocks, else 4 KiB" if mixed else ""


def nodes_fields(counts: Mapping[int, int]) -> list[tuple[str, str]]:
    """Return the bytes on each memory node as pairs of label and text."""
    return [("node ?" if node < 0 else f"node {node}", format_size(size)) for node, size in counts.items()]


def nodes_json(counts: Mapping[int, int]) -> dict[str, int]:
    """Return the bytes on each memory node as JSON has them; `unknown` if the kernel does not tell the node."""
    return {"unknown" if node < 0 else str(node): size for node, size in counts.items()}


def _memory(info: RegionInfo) -> str:
    """Return what the region takes now, in words."""
    text = f"{format_size(info.memory_bytes)} in pages"
    if not info.reserved:
        text += ", not reserved: more comes on first touch or by populate"
    if info.shared_table_bytes is not None:
        text += f", {format_size(info.shared_table_bytes)} in shared page tables"
    if info.huge_pages or info.huge_fallbacks:
        text += f", {info.huge_pages} blocks of 2 MiB ({info.huge_fallbacks} fell back to 4 KiB)"
    if info.charged_bytes is not None:
        text += f"; counts {format_size(info.charged_bytes)} of the mount's size="
    return text


def region_json(info: RegionInfo) -> dict[str, Any]:
    """Return one region as JSON has it: bytes and seconds exact, `mode` as an octal string."""
    return {
        "name": info.name,
        "size": info.size,
        "mode": f"{info.mode:04o}",
        "uid": info.uid,
        "backend": info.backend,
        "reason": info.reason,
        "leaf_size": info.leaf_size,
        "map_unit": info.map_unit,
        "addr": info.addr,
        "pids": list(info.pids),
        "orphan": info.orphan,
        "created": info.created,
        "frozen": info.frozen,
        "reserved": info.reserved,
        "path": info.path,
        "page_table_bytes": info.page_table_bytes,
        "memory_bytes": info.memory_bytes,
        "shared_table_bytes": info.shared_table_bytes,
        "charged_bytes": info.charged_bytes,
        "huge_pages": info.huge_pages,
        "huge_fallbacks": info.huge_fallbacks,
    }
