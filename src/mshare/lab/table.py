"""Runs as a table and as sentences: records in, text out. Pure. May depend on: run, scale, report, units."""

from __future__ import annotations

from collections.abc import Sequence

from ..report import Table, printable
from ..units import format_size
from .run import Run


def runs_table(runs: Sequence[Run], clients: int) -> Table:
    """Return one line per way. `clients` is how many the server has: what the last column is computed for."""
    headers = (
        "WAY", "CLIENTS", "PAGE TABLES", "EACH FURTHER", f"FOR {clients:,}", "FREE LEFT", "FAULTS",
        "ALL READ", "FORK", "EXIT", "SURVIVE", "NEWCOMER",
    )  # fmt: skip
    return Table(headers, tuple(_row(run, clients) for run in runs), right=frozenset(range(1, 11)))


def _row(run: Run, clients: int) -> tuple[str, ...]:
    if run.unavailable is not None:
        return (printable(run.label), *("-",) * 10, "not usable here")
    died = " †" if run.oom_kills else ""
    return (
        printable(run.label),
        f"{run.reached:,}{died}",
        size(run.caused_bytes()),
        size(run.per_client_bytes()),
        size(run.created_tables_bytes + run.needed_bytes(clients)),
        size(run.samples[-1].free_bytes) if run.samples else "-",
        f"{run.faults.median:,.0f}",
        f"{run.all_read_s:,.1f} s",
        milliseconds(run.fork_ns),
        milliseconds(run.exit_ns),
        f"{run.survivors:,} of {run.asked:,}",
        "attaches" if run.newcomer == "ok" else "cannot attach",
    )


def size(size_bytes: float) -> str:
    """Return a size; what is within the noise of a page per hundred clients is 0."""
    return "0 B" if abs(size_bytes) < 41 else format_size(size_bytes)


def milliseconds(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def notes(runs: Sequence[Run]) -> list[str]:
    """Return what has to be said under the table."""
    usable = [run for run in runs if run.unavailable is None]
    if not usable:
        return [f"{printable(run.label)}: {printable(run.unavailable or '')}" for run in runs]
    first = usable[0]
    what = {
        "machine": f"this machine's {format_size(first.limit_bytes)}",
    }.get(first.limit_kind, f"a memory {first.limit_kind} of {format_size(first.limit_bytes)}, not the whole machine")
    lines = [
        f"Memory: {what}. Shared: {format_size(first.size_bytes)}. {first.wanted:,} clients wanted: forks of one small "
        f"Python, {format_size(first.private_bytes())} each with nothing mapped; {first.workers} read at a time.",
        "PAGE TABLES: what the region causes, measured with the clients reached: all page tables less those of the "
        "same processes with nothing mapped. EACH FURTHER: its slope. The next column is arithmetic: that slope times "
        "the clients, and the creator's and the region's own.",
        "FAULTS: minor faults of a client that reads all of it, median. FORK, EXIT: of a client that has done so.",
        "SURVIVE: clients that read on after the creator's SIGKILL. NEWCOMER: a process that attaches by name then.",
    ]
    if any(run.oom_kills for run in usable):
        lines.append("†: the kernel killed a client for lack of memory; no more were started.")
    if first.step_bytes > 4096:
        lines.append(
            f"Sparse: one page of every {format_size(first.step_bytes)} is there and is read. All last-level tables of "
            "the region exist, and 1 of 512 entries in them is used."
        )
    lines += [f"{printable(run.label)}: {printable(run.unavailable)}" for run in runs if run.unavailable is not None]
    return lines
