"""Page tables over time: one `Point` per snapshot, and how they grew. Pure.
May depend on: snapshot, survey, show, table, units.

A point is small, so that a long recording keeps only the last snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._core.units import KIB, format_age, format_size
from ..table import printable
from .show import label
from .snapshot import Object, Snapshot
from .survey import Survey

_LEAST_BYTES = 64 * KIB


class Identity(NamedTuple):
    """The identity of an object, by which other snapshots have the same object. None stands for private memory."""

    label: str
    """The object's raw name, as in `show.label`."""
    dev: int
    ino: int
    namespace: int


class Point(NamedTuple):
    """One snapshot's figures. Bytes."""

    taken: float
    """Seconds since the epoch."""
    host: str
    page_tables: int
    """The result of `page_tables`."""
    processes: int
    objects: Mapping[Identity | None, int]
    """Likely page-table bytes of objects that have at least 64 KiB."""


class Growth(NamedTuple):
    """The changes between the first and the last of several snapshots of one machine."""

    seconds: float
    change: int
    """Bytes of `PageTables`; negative if they shrank."""
    sentences: tuple[str, ...]
    """Printable."""


def identity(thing: Object | None) -> Identity | None:
    """Return the key of an object; None for private memory."""
    return None if thing is None else Identity(label(thing), thing.dev, thing.ino, thing.namespace)


def page_tables(snapshot: Snapshot, survey: Survey) -> int:
    """Return the bytes of page tables of a report: `PageTables` of /proc/meminfo. If that is unknown, or only chosen
    processes were read, return the page tables of the processes."""
    sums = survey.totals
    if sums.page_tables and not snapshot.partial:
        return sums.page_tables
    return max(0, sums.processes + sums.unreadable - sums.counted_twice + sums.regions)


def point(snapshot: Snapshot, survey: Survey) -> Point:
    """Return the figures of one snapshot with this `survey`."""
    objects: dict[Identity | None, int] = {}
    for usage in survey.usages:
        if usage.now.likely >= _LEAST_BYTES:
            key = identity(usage.object)
            objects[key] = objects.get(key, 0) + usage.now.likely
    return Point(snapshot.taken, snapshot.system.host, page_tables(snapshot, survey), len(snapshot.processes), objects)


def growth(points: Sequence[Point], titles: Mapping[str, str] | None = None) -> Growth | None:
    """Return how page tables changed, None for a single moment. `points` are in order of time; `titles` has better
    names for some objects' labels."""
    if len(points) < 2 or points[-1].taken <= points[0].taken:
        return None
    first, last = points[0], points[-1]
    seconds, change = last.taken - first.taken, last.page_tables - first.page_tables
    sentences = []
    if len({each.host for each in points}) > 1:
        names = ", ".join(dict.fromkeys(printable(each.host) for each in points))
        one = f"These snapshots are of different machines ({names}). Their difference is not growth."
        return Growth(seconds, change, (one,))
    way = "grew" if change > 0 else "shrank" if change < 0 else "stayed at the same size"
    span = f"In {format_age(seconds)} ({len(points)} snapshots) page tables {way}"
    if change:
        span += f" from {format_size(first.page_tables)} to {format_size(last.page_tables)}"
    if change and seconds >= 60:
        name, unit = ("hour", 3600) if seconds >= 3600 else ("minute", 60)
        span += f", {format_size(unit * abs(change) / seconds)} per {name}"
    sentences.append(
        f"{span}; processes: {first.processes} then, {last.processes} at the end."
        if first.processes != last.processes
        else f"{span}; {last.processes} processes then and at the end."
    )
    by = {key: last.objects.get(key, 0) - first.objects.get(key, 0) for key in {*first.objects, *last.objects}}
    key = max(by, key=lambda each: (by[each], each or ("",)), default=None)
    if change > 0 and by and by[key] > 0:
        name = "private memory" if key is None else printable(key.label)
        name = (titles or {}).get(name, name)
        sentences.append(f"Most of it for {name}: {format_size(by[key])} more.")
    return Growth(seconds, change, tuple(sentences))


def series_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the points as JSON has them: exact bytes."""
    return [
        {
            "taken": each.taken,
            "host": each.host,
            "page_table_bytes": each.page_tables,
            "processes": each.processes,
            "objects": [
                {
                    "object": None if key is None else key.label,
                    "dev": None if key is None else key.dev,
                    "ino": None if key is None else key.ino,
                    "page_table_bytes": size,
                }
                for key, size in each.objects.items()
            ],
        }
        for each in points
    ]
