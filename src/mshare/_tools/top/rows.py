"""The lines of the screens: readings in, cells and what to sort them by out. Pure. May depend on: scan, table, units.

Names are other people's: every cell has passed `printable`. Columns with names come last, so that a long one pushes
nothing off the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..._core.units import format_size
from ..scan.groups import groups, user
from ..scan.show import bounds, label, leaves, split
from ..scan.snapshot import Object, Snapshot
from ..scan.survey import Bytes, ObjectUsage, Survey
from ..table import printable


class Reading(NamedTuple):
    """The scan of one moment."""

    snapshot: Snapshot
    survey: Survey


class Column(NamedTuple):
    """One column of a screen. `key` is the letter that sorts by it, empty where nothing does."""

    title: str
    key: str = ""
    number: bool = True
    """Set flush right, and sorted with the largest first."""


class Row(NamedTuple):
    """One line: `key` says what it is about, from reading to reading; `values` are what the columns are sorted by."""

    key: str
    cells: tuple[str, ...]
    values: tuple[int | str, ...]


OBJECTS = (
    Column("NOW", "n"),
    Column("SHARED"),
    Column("2M"),
    Column("SIZE", "s"),
    Column("PROCS", "c"),
    Column("LEAF"),
    Column("KIND", number=False),
    Column("OBJECT", "o", number=False),
)
PROCESSES = (
    Column("TABLES", "t"),
    Column("VmPTE", "v"),
    Column("PID", "i"),
    Column("USER", "u", number=False),
    Column("COMMAND", "c", number=False),
)
GROUPS = (
    Column("VmPTE", "v"),
    Column("SHAREABLE", "s"),
    Column("PROCS", "c"),
    Column("NAME", "o", number=False),
)
GROUPED_BY = ("command", "user", "unit")


def key_of(thing: Object | None) -> str:
    """Return what stands for an object as long as it exists."""
    return "private" if thing is None else f"{thing.kind} {thing.dev} {thing.ino} {thing.namespace}"


def objects(reading: Reading, least: int) -> tuple[list[Row], str]:
    """Return the objects with at least `least` bytes of page tables, and what to say of the others."""
    shown, others = split(reading.survey.usages, least)
    return list(map(_object, shown)), _rest(others)


def _object(usage: ObjectUsage) -> Row:
    name, kind = label(usage.object), "private" if usage.object is None else usage.object.kind
    what_if = usage.what_if()
    shared, by_2m = ("-", "-") if what_if is None else (format_size(what_if.shared), format_size(what_if.leaves_2m))
    cells = (
        bounds(usage.now),
        shared,
        by_2m,
        format_size(usage.size),
        str(usage.processes),
        leaves(usage.object),
        kind,
        printable(name),
    )
    return Row(key_of(usage.object), cells, (usage.now.likely, 0, 0, usage.size, usage.processes, 0, kind, name))


def _rest(usages: Sequence[ObjectUsage]) -> str:
    if not usages:
        return ""
    total = Bytes.total(usage.now for usage in usages)
    return f"{len(usages)} others: {bounds(total)}"


def processes(reading: Reading, key: str) -> tuple[list[Row], str]:
    """Return the processes that map the object `key`, none if it is gone, and the object's name."""
    usage = next((each for each in reading.survey.usages if key_of(each.object) == key), None)
    if usage is None:
        return [], "nobody maps it any more"
    rows = []
    for process in reading.snapshot.processes:
        tables = usage.by_process.get(process.pid)
        if tables is not None:
            owner = user(reading.snapshot, process.uid)
            cells = (
                format_size(tables),
                format_size(process.vmpte),
                str(process.pid),
                printable(owner),
                printable(process.command),
            )
            rows.append(Row(str(process.pid), cells, (tables, process.vmpte, process.pid, owner, process.command)))
    return rows, printable(label(usage.object))


def grouped(reading: Reading, by: str) -> tuple[list[Row], str]:
    """Return the groups by one of `GROUPED_BY`, and the title."""
    rows = []
    for group in groups(reading.snapshot, reading.survey, by):
        count = len(group.pids)
        shareable = format_size(group.shared) + (f" ({group.unread} unread)" if group.unread else "")
        cells = (format_size(group.vmpte), shareable, str(count), printable(group.name))
        rows.append(Row(group.name, cells, (group.vmpte, group.shared, count, group.name)))
    return rows, f"by {by}"


def ordered(rows: Sequence[Row], columns: Sequence[Column], column: int) -> list[Row]:
    """Return `rows` by one column: largest number or first name at the top; the order there is decides ties."""
    return sorted(rows, key=lambda row: row.values[column], reverse=columns[column].number)


def heading(reading: Reading) -> str:
    """Return the machine's page tables in one line."""
    snapshot, totals = reading
    memory = snapshot.system.memory.get("MemTotal", 0)
    tables = totals.totals.page_tables
    parts = [f"PageTables {format_size(tables)}"]
    if memory:
        parts.append(f"{100 * tables / memory:.1f} % of {format_size(memory)}")
    if not snapshot.partial:
        parts.append(f"{100 * totals.totals.explained:.0f} % explained")
    count = sum(each.processes for each in totals.unreadable)
    if count:
        parts.append(f"unreadable processes: {count}")
    return "  ".join(parts)
