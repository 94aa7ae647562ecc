"""Outcomes as Markdown: costs per process, what happens in each event, and failures.

May depend on: specs, trial, machine, table, vm, units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mshare._core.units import format_size, format_time
from mshare._tools.table import printable
from vm import markdown

from .. import machine
from .specs import BASELINE, PLAIN
from .trial import Outcome, Plan

Values = dict[str, Any]
Found = dict[tuple[str, str], Outcome]
_MESSAGE_CHARS = 220
_TARGET = 1.2


def _random_read(values: Values) -> str:
    spread = f" ({values['least_ns']:.1f} to {values['most_ns']:.1f})" if values.get("rounds", 1) > 1 else ""
    return f"{values['ns']:.1f} ns{spread}"


_FIGURES: tuple[tuple[str, str, Callable[[Values], str]], ...] = (
    ("VmPTE", "process", lambda values: format_size(values["vmpte_bytes"])),
    ("PageTables", "tables", lambda values: format_size(values["page_tables_bytes"])),
    ("minor faults", "process", lambda values: f"{values['minor_faults']:,}"),
    ("first attach", "process", lambda values: format_time(values["first_attach_ns"])),
    ("attach", "process", lambda values: format_time(values["attach_ns"])),
    ("fork", "process", lambda values: format_time(values["fork_ns"])),
    ("exit", "process", lambda values: format_time(values["exit_ns"])),
    ("first touch", "touch", lambda values: f"{values['bytes'] / values['ns']:.2f} GB/s"),
    ("random read", "random", _random_read),
)
"""Header, column, and the function that shows the column's value."""


class _Notes:
    """Footnotes: full messages, each once."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the mark that stands for `text`, and remember it."""
        short = printable(" ".join(text.split("\n\n", maxsplit=1)[0].split()))
        short = short if len(short) <= _MESSAGE_CHARS else short[:_MESSAGE_CHARS] + " ..."
        if short not in self._texts:
            self._texts.append(short)
        return f"[{self._texts.index(short) + 1}]"

    def lines(self) -> Iterator[str]:
        """Yield the footnotes as a list."""
        for number, text in enumerate(self._texts, 1):
            yield f"- [{number}] `{text.replace('`', chr(39))}`"


def page(document: dict[str, Any], plan: Plan, outcomes: Sequence[Outcome]) -> str:
    """Return the whole report. `document`: machine, command, loads, and the missing parts with their reasons."""
    found = {(outcome.mechanism, outcome.column): outcome for outcome in outcomes}
    mechanisms = list(dict.fromkeys(outcome.mechanism for outcome in outcomes))
    notes = _Notes()
    lines = ["# Every mechanism side by side", ""]
    lines += ["What the columns mean, and what they leave out: [measuring](../measuring.md).", ""]
    lines += [f"- {key}: {value}" for key, value in document["machine"].items()]
    before, after = document["load_1min"]
    lines += [f"- command: `{document['command']}`"]
    lines += [f"- load average at the start {before:.2f}, at the end {after:.2f}; {document['seconds']:.0f} s in all"]
    lines += [
        f"- page tables, faults, attach, fork, exit, first touch: a region of {format_size(plan.size_bytes)}, medians "
        f"of {plan.runs} fresh processes; random reads: {format_size(plan.random_bytes)}, median of "
        f"{plan.random_rounds}, with memory and a process of their own, the mechanisms in alternating order, in "
        f"brackets the least and the most; the rest: {format_size(plan.small_bytes)}",
        *_remarks(mechanisms, found, plan),
        *(f"- {remark}" for remark in machine.remarks(document["machine"])),
        "- compare within this table; the machine did other things as well"
        if max(before, after) > 1
        else "- compare within this table",
        "",
        "## What one further process pays",
        "",
        *_figures(mechanisms, found, notes),
        "",
        *_ratios(mechanisms, found, plan.size_bytes),
        "## What happens when",
        "",
        *_fates(mechanisms, found, notes),
        "",
        *_crowd(mechanisms, found, notes),
        "",
        "## In their own words",
        "",
        *notes.lines(),
    ]
    if document["missing"]:
        lines += ["", "## Not measured", "", *(f"- {text}" for text in document["missing"])]
    return "\n".join(lines) + "\n"


def _remarks(mechanisms: Sequence[str], found: Found, plan: Plan) -> Iterator[str]:
    """Yield notes about figures that break the general rule or could be misread."""
    once = [
        mechanism
        for mechanism in mechanisms
        if (values := _values(found, mechanism, "touch")) and values.get("runs", plan.runs) == 1 < plan.runs
    ]
    if once:
        yield f"- first touch of {', '.join(once)}: one process, as the daemon keeps memory, touched, for the next"
    baseline = _values(found, BASELINE, "process")
    if baseline:
        yield (
            "- minor faults are as counted, nothing is taken off for the baseline: those of the baseline, "
            f"{baseline['minor_faults']:,}, are the reading program's, which maps one page of its own and shares none"
        )
    partly = [
        mechanism
        for mechanism in mechanisms
        if (outcome := found.get((mechanism, "random"))) and outcome.values and outcome.failure
    ]
    if partly:
        yield f"- random reads of {', '.join(partly)}: a round failed, the others count"


def _numbers(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from markdown.table(["", *headers], rows, right=range(1, len(headers) + 1))


def _cell(found: Found, mechanism: str, column: str, notes: _Notes, show: Callable[[Values], str]) -> str:
    outcome = found.get((mechanism, column))
    if outcome is None:
        return ""
    return show(outcome.values) if outcome.values is not None else f"failed {notes.mark(outcome.failure)}"


def _figures(mechanisms: Sequence[str], found: Found, notes: _Notes) -> Iterator[str]:
    rows = (
        [mechanism, *(_cell(found, mechanism, column, notes, show) for _, column, show in _FIGURES)]
        for mechanism in mechanisms
    )
    yield from _numbers([header for header, _, _ in _FIGURES], rows)


def _values(found: Found, mechanism: str, column: str) -> Values | None:
    outcome = found.get((mechanism, column))
    return outcome.values if outcome else None


def is_small_paged(values: Values, size_bytes: int) -> bool:
    """Tell from a process's page tables whether it maps the region by private 4 KiB entries: 8 bytes per page."""
    return bool(values["vmpte_bytes"] >= size_bytes // 4096 * 8 * 0.9)


def _has_small_pages(found: Found, mechanism: str, size_bytes: int) -> bool:
    values = _values(found, mechanism, "process")
    return is_small_paged(values, size_bytes) if values else "HUGETLB" not in mechanism  # otherwise the label decides


def _ratios(mechanisms: Sequence[str], found: Found, size_bytes: int) -> Iterator[str]:
    """Yield random reads relative to the plain mechanism, and the target: huge pages are 1.2 times as fast."""
    plain = _values(found, PLAIN, "random")
    if plain is None:
        return
    times = {
        mechanism: values["ns"]
        for mechanism in mechanisms
        if mechanism != BASELINE and (values := _values(found, mechanism, "random"))
    }
    rows = ([mechanism, f"{plain['ns'] / ns:.2f}"] for mechanism, ns in times.items())
    yield from _numbers([f"random reads, {PLAIN} = 1; more is faster"], rows)
    yield ""
    ours = [mechanism for mechanism in ("mshare thp", "mshare hugetlb") if mechanism in times]
    small = [
        mechanism
        for mechanism in times
        if not mechanism.startswith("mshare ") and _has_small_pages(found, mechanism, size_bytes)
    ]
    if ours and small:
        slowest, fastest = max(times[mechanism] for mechanism in small), min(times[mechanism] for mechanism in small)
        for mechanism in ours:
            low, high = fastest / times[mechanism], slowest / times[mechanism]
            verdict = "met" if low >= _TARGET else "**missed**"
            yield (
                f"Target: `{mechanism}` reads at least {_TARGET} times as fast as the other mechanisms with 4 KiB "
                f"pages: {low:.2f} (the fastest of them) to {high:.2f} (the slowest): {verdict}."
            )
            yield ""


def _good(outcome: str, good: str, notes: _Notes) -> str:
    return good if outcome == "ok" else f"**no** {notes.mark(outcome)}"


def _full(values: Values, notes: _Notes) -> str:
    if values["step"] == "none":
        return f"not limited by it: {notes.mark('its memory: ' + values['where'])}"
    dies = values["how"].startswith("killed by")
    word = {"create": "creating", "attach": "attaching", "touch": "the first write"}[values["step"]]
    return f"**{word}: {values['how']}**" if dies else f"{word} fails {notes.mark(values['how'])}"


def _kept(values: Values) -> str:
    return "not seen" if values["kept_bytes"] is None else format_size(values["kept_bytes"])


def _fates(mechanisms: Sequence[str], found: Found, notes: _Notes) -> Iterator[str]:
    columns: tuple[tuple[str, str, Callable[[Values], str]], ...] = (
        ("creator killed: a reader", "creator", lambda values: _good(values["others"], "goes on", notes)),
        ("a newcomer attaches", "creator", lambda values: _good(values["newcomer"], "yes", notes)),
        ("and when all have gone", "creator", lambda values: _good(values["later"], "yes", notes)),
        ("memory that stays", "creator", _kept),
        ("a reader ends: a newcomer attaches", "reader", lambda values: _good(values["newcomer"], "yes", notes)),
        ("the file system is full", "full", lambda values: _full(values, notes)),
    )
    rows = (
        [mechanism, *(_cell(found, mechanism, column, notes, show) for _, column, show in columns)]
        for mechanism in mechanisms
        if mechanism != BASELINE
    )
    yield from markdown.table(["", *(header for header, _, _ in columns)], rows)


def _crowd(mechanisms: Sequence[str], found: Found, notes: _Notes) -> Iterator[str]:
    count = next((values["count"] for mechanism in mechanisms if (values := _values(found, mechanism, "crowd"))), None)
    if count is None:
        return
    columns: tuple[tuple[str, Callable[[Values], str]], ...] = (
        ("attached", lambda values: f"{'≥ ' if values.get('cut') else ''}{values['attached']:,}"),
        ("in", lambda values: f"{values['seconds']:.1f} s"),
        ("PageTables per process", lambda values: format_size(values["page_tables_bytes"])),
        ("stopped by", lambda values: notes.mark(values["stopped"]) if values["stopped"] else ""),
    )
    rows = (
        [mechanism, *(_cell(found, mechanism, "crowd", notes, show) for _, show in columns)] for mechanism in mechanisms
    )
    yield from _numbers([f"{count:,} processes: {columns[0][0]}", *(header for header, _ in columns[1:])], rows)
