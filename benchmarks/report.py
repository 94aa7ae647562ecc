"""Results as Markdown: tables, ratios within this run, and the targets.

May depend on: machine, run, measure, vm, units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mshare._core.units import GIB, format_size, format_time
from mshare.measure import Cost, Nothing, SharedMemory
from vm import markdown

from . import machine
from .run import Results

RIVAL = SharedMemory.label
_THP = "mshare thp"


_COLUMNS: tuple[tuple[str, Callable[[Cost], str]], ...] = (
    ("VmPTE", lambda cost: format_size(cost.vmpte_bytes)),
    ("PageTables", lambda cost: format_size(cost.page_tables_bytes)),
    ("minor faults", lambda cost: f"{cost.minor_faults:,}"),
    ("first attach", lambda cost: format_time(cost.process.first_attach_ns)),
    ("attach + close", lambda cost: format_time(cost.process.attach_close_ns)),
    ("often", lambda cost: format_time(cost.process.attach_close_often_ns)),
    ("scan", lambda cost: format_time(cost.process.scan_ns)),
    ("scan again", lambda cost: format_time(cost.process.scan_again_ns)),
    ("detach", lambda cost: format_time(cost.process.detach_ns)),
    ("fork", lambda cost: format_time(cost.process.fork_ns)),
    ("exit", lambda cost: format_time(cost.process.exit_ns)),
    ("create", lambda cost: format_time(cost.create_ns)),
    ("create + touch", lambda cost: format_time(cost.create_ns + cost.first_touch_ns)),
)


class Target(NamedTuple):
    """A promise, and this run's result for it."""

    what: str
    seen: str
    met: bool


def by_size(results: Results) -> dict[int, dict[str, Cost]]:
    """Return the costs by size and mechanism, in the order measured."""
    found: dict[int, dict[str, Cost]] = {}
    for cost in results.costs:
        found.setdefault(cost.size_bytes, {})[cost.mechanism] = cost
    return found


def targets(results: Results) -> Iterator[Target]:
    """Yield every target for which this run has figures."""
    for size, costs in by_size(results).items():
        ours, rival = costs.get(_THP), costs.get(RIVAL)
        if ours is None or rival is None:
            continue
        label = format_size(size)
        if size >= GIB:
            ratio = rival.vmpte_bytes / max(1, ours.vmpte_bytes)
            yield Target(f"{label}: page-table bytes at most 1/200 of {RIVAL}'s", f"1/{ratio:.0f}", ratio >= 200)
        first, rivals_first = ours.process.first_attach_ns, rival.process.first_attach_ns
        yield _at_most(f"{label}: a process's first attach no slower than {RIVAL}'s", first, rivals_first)
        both, rivals_both = ours.process.attach_close_ns, rival.process.attach_close_ns
        yield _at_most(f"{label}: attach + close, nothing touched, no slower than {RIVAL}'s", both, rivals_both)
        often, rivals_often = ours.process.attach_close_often_ns, rival.process.attach_close_often_ns
        yield _at_most(f"{label}: the same, the 3,001st to 4,001st time in a row", often, rivals_often)
        yield _at_most(f"{label}: attach + scan + close no slower than {RIVAL}'s", _whole(ours), _whole(rival))
        others = [cost for name, cost in costs.items() if not name.startswith(("mshare", Nothing.label))]
        best = min(others, key=lambda cost: cost.process.scan_ns)
        yield _at_most(
            f"{label}: warm scan no slower than the fastest other mechanism's ({best.mechanism})",
            ours.process.scan_ns,
            best.process.scan_ns,
        )
        if size == 2 * GIB:
            yield _at_most(
                f"{label}: create no slower than {RIVAL} + first touch",
                ours.create_ns,
                rival.create_ns + rival.first_touch_ns,
            )


def _whole(cost: Cost) -> int:
    return cost.process.attach_ns + cost.process.scan_ns + cost.process.detach_ns


def _at_most(what: str, ours: int, theirs: int) -> Target:
    return Target(what, f"{format_time(ours)} : {format_time(theirs)} = {ours / theirs:.2f}", ours <= theirs)


def _table(costs: dict[str, Cost]) -> Iterator[str]:
    headers = ["", *(header for header, _ in _COLUMNS)]
    rows = ([cost.mechanism, *(show(cost) for _, show in _COLUMNS)] for cost in costs.values())
    yield from markdown.table(headers, rows, right=range(1, len(headers)))


def _ratios(costs: dict[str, Cost]) -> Iterator[str]:
    """Yield the rival's cost divided by ours: above 1, ours is cheaper."""
    rival = costs.get(RIVAL)
    if rival is None:
        return
    headers = [f"{RIVAL} by ...", "VmPTE", "minor faults", "attach + close", "scan", "detach", "exit"]
    rows = []
    for name, cost in costs.items():
        if not name.startswith("mshare"):
            continue
        ours, theirs = cost.process, rival.process
        pairs = [
            (theirs.vmpte_bytes, ours.vmpte_bytes),
            (theirs.minor_faults, ours.minor_faults),
            (theirs.attach_close_ns, ours.attach_close_ns),
            (theirs.scan_ns, ours.scan_ns),
            (theirs.detach_ns, ours.detach_ns),
            (theirs.exit_ns, ours.exit_ns),
        ]
        rows.append([name, *(f"{a / b:,.2f}" if b else "-" for a, b in pairs)])
    yield from markdown.table(headers, rows, right=range(1, len(headers)))


def page(results: Results) -> str:
    """Return the whole report."""
    lines = ["# What each further process pays", ""]
    lines += ["What the columns mean, and what they leave out: [measuring](../measuring.md).", ""]
    lines += [f"- {key}: {value}" for key, value in results.machine.items()]
    lines += [f"- {remark}" for remark in machine.remarks(results.machine)]
    plan = results.plan
    lines += [
        f"- medians of {plan.runs} fresh processes per row, {plan.creates} creations; PageTables by {plan.processes} "
        "processes at once",
        "",
    ]
    met = ([target.what, target.seen, "met" if target.met else "**missed**"] for target in targets(results))
    lines += ["## Targets", "", *markdown.table(["target", "this run", ""], met)]
    for size, costs in by_size(results).items():
        lines += ["", f"## {format_size(size)}", "", *_table(costs), "", *_ratios(costs)]
    if results.notes:
        lines += ["", "## Not measured", "", *(f"- {note}" for note in results.notes)]
    return "\n".join(lines) + "\n"
