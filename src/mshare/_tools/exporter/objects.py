"""Objects as time series: stable names, and a bounded number of them. Pure. May depend on: scan, table.

*Facts.* Every label value is a time series that a server keeps, and a sample must not be there twice. Inode numbers and
shmids are new after each restart, and many objects may have one name (memfds, deleted files). *Decision.* A series is
named without such numbers, objects of one name are added up, and beyond the largest the rest is one series.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..scan.show import label
from ..scan.snapshot import Object
from ..scan.survey import Bytes, ObjectUsage, WhatIf
from ..table import printable

MOST_CHARACTERS = 120
OTHER = "other"


class Series(NamedTuple):
    """The costs of all objects of one name together."""

    object: str
    kind: str
    now: Bytes
    size: int
    processes: int
    what_if: WhatIf | None
    """The costs of the objects that are mapped shared; None if there are none."""


def name(thing: Object | None) -> str:
    """Return what to call an object: printable, at most `MOST_CHARACTERS`, the same after a restart."""
    if thing is not None and not thing.region:
        if thing.kind == "anonymous":
            return "shared anonymous"
        if thing.kind == "hugetlb" and thing.path == "/anon_hugepage":
            return "anonymous huge pages"
        if thing.kind in ("SysV", "hugetlb") and thing.path.startswith("/SYSV"):
            return f"SysV key 0x{printable(thing.path.removeprefix('/SYSV'))}"[:MOST_CHARACTERS]
    text = printable(label(thing))
    if len(text) <= MOST_CHARACTERS:
        return text
    return text[: MOST_CHARACTERS // 2 - 1] + "…" + text[-MOST_CHARACTERS // 2 :]


def series(usages: Iterable[ObjectUsage], most: int) -> list[Series]:
    """Return the `most` names with most page tables, largest first, then the rest as `other`, if there is any."""
    by_name: dict[tuple[str, str], list[ObjectUsage]] = {}
    for usage in usages:
        kind = "private" if usage.object is None else usage.object.kind
        by_name.setdefault((name(usage.object), kind), []).append(usage)
    largest = sorted(by_name.items(), key=lambda item: -sum(usage.now.likely for usage in item[1]))
    found = [_added(*key, members) for key, members in largest[:most]]
    rest = [usage for _, members in largest[most:] for usage in members]
    if rest:
        found.append(_added(OTHER, OTHER, rest))
    return found


def _added(called: str, kind: str, usages: list[ObjectUsage]) -> Series:
    costs = [what_if for usage in usages if (what_if := usage.what_if()) is not None]
    return Series(
        called,
        kind,
        Bytes.total(usage.now for usage in usages),
        sum(usage.size for usage in usages),
        len({pid for usage in usages for pid in usage.by_process}),
        WhatIf(*map(sum, zip(*costs, strict=True))) if costs else None,
    )
