"""The result for people: what was shown, the table, its footnotes. A result in, text out. May depend on: bill,
flights, main, table, units."""

from __future__ import annotations

from collections.abc import Iterator

from ..._core.units import format_size, format_time
from ..table import Table
from .bill import PROJECTED_BYTES, PROJECTED_PROCESSES, Bill
from .flights import ROWS
from .main import Result

BEST = 5
"""Carriers shown."""


def lines(result: Result) -> Iterator[str]:
    """Yield what happened, a line each."""
    story = result.story
    yield (
        f"{story.rows:,} rows ({ROWS:,} flights, {story.tiles} times) in region {story.name!r}: "
        f"{format_size(story.size_bytes)} on {story.backend} at {story.addr:#x}"
    )
    yield (
        f"Killed while loading, with {story.columns_written_when_killed} of {story.columns} columns written: "
        "no region was visible, then or before. A second loader took over."
    )
    yield (
        f"Killed while in use, with {story.rows_done_when_killed:,} of {story.rows * story.processes:,} rows worked "
        f"through: {story.workers_attached_after_kill} of {story.processes} processes went on."
    )
    yield (
        f"{story.workers_agreeing} of {story.processes} processes have the plain computation's result, to the last bit;"
        f" so does one that attached when all others were gone: {'yes' if story.latecomer_agrees else 'NO'}."
    )
    late = sorted(story.delays.items(), key=lambda item: item[1].mean_minutes)
    yield "Mean arrival delay in minutes: " + ", ".join(
        f"{carrier} {delay.mean_minutes:.1f}" for carrier, delay in [*late[:2], *late[-BEST + 2 :]]
    )
    yield from result.notes
    if result.left_behind:
        yield f"LEFT BEHIND, and removed only now: {', '.join(result.left_behind)}"


def title(bill: Bill) -> str:
    """Return the table's title."""
    return f"What each further process pays for {format_size(bill.size_bytes)} of shared memory, measured here"


def table(bill: Bill) -> Table:
    """Return the table: what each further process pays."""
    last = f"{format_size(PROJECTED_BYTES)} x {PROJECTED_PROCESSES:,}"
    headers = ("", "VmPTE", "PageTables", "faults", "attach", "scan", "detach", last)
    rows = []
    for line in bill.lines:
        paid = line.cost.process
        rows.append(
            (
                line.cost.mechanism,
                format_size(paid.vmpte_bytes),
                format_size(line.cost.page_tables_bytes),
                f"{paid.minor_faults:,}",
                format_time(paid.attach_ns),
                format_time(paid.scan_ns),
                format_time(paid.detach_ns),
                "-" if line.projected_bytes is None else format_size(line.projected_bytes),
            )
        )
    return Table(headers, tuple(rows), frozenset(range(1, len(headers))))


def footnotes(bill: Bill) -> Iterator[str]:
    """Yield what one must know to read the table."""
    if bill.lines:
        cost = bill.lines[0].cost
        yield (
            "VmPTE: page tables of one process. PageTables: growth of the machine's, divided by the "
            f"{cost.processes} processes that caused it at once; other programs' changes are in it. Faults: minor "
            "faults of the first scan. Attach: nothing touched. Scan: the first, with faults. Detach: after the scan. "
            f"Medians of {cost.runs} fresh processes."
        )
    slopes = [line.slope for line in bill.lines if line.slope]
    if slopes:
        yield (
            "Last column: arithmetic, not measurement: what the second GiB of a 2 GiB region costs each of "
            f"{slopes[0].processes} processes (VmPTE, measured), times {format_size(PROJECTED_BYTES)}, times "
            f"{PROJECTED_PROCESSES:,}."
        )
    yield from bill.notes
