"""Runs as tables and as sentences: records in, text out. Pure. May depend on: run, table, units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..._core.units import format_size, format_time
from ..table import Table, printable
from .run import MACHINE, V1, Run


def memory_table(runs: Sequence[Run], clients: int) -> Table:
    """Return one line per mechanism: the number of clients that it reached, and their costs. `clients` is the server's
    number, for which the fourth figure is computed."""
    headers = ("MECHANISM", "CLIENTS", "PAGE TABLES", "EACH MORE", f"FOR {clients:,}", "FREE LEFT")
    return _table(headers, runs, lambda run: _memory(run, clients))


def _memory(run: Run, clients: int) -> tuple[str, ...]:
    return (
        f"{run.reached:,}{' †' if run.oom_kills else ''}",
        size(run.caused_bytes()),
        size(run.per_client_bytes()),
        size(run.created_tables_bytes + run.needed_bytes(clients)),
        size(run.samples[-1].free_bytes) if run.samples else "-",
    )


def client_table(runs: Sequence[Run]) -> Table:
    """Return one line per mechanism: the costs of a client, and the client's fate when the creator dies."""
    return _table(("MECHANISM", "FAULTS", "ALL READ", "FORK", "EXIT", "SURVIVE", "NEWCOMER"), runs, _client)


def _client(run: Run) -> tuple[str, ...]:
    return (
        f"{run.faults.median:,.0f}",
        f"{run.all_read_s:,.1f} s" if run.reached == run.wanted else "-",
        format_time(run.fork_ns),
        format_time(run.exit_ns),
        f"{run.survivors:,} of {run.asked:,}{' ‡' if run.killed_later else ''}",
        "yes" if run.newcomer == "ok" else "no",
    )


def _table(headers: tuple[str, ...], runs: Sequence[Run], cells: Callable[[Run], tuple[str, ...]]) -> Table:
    nothing = ("-",) * (len(headers) - 1)
    rows = tuple((printable(run.label), *(nothing if run.unavailable is not None else cells(run))) for run in runs)
    return Table(headers, rows, right=frozenset(range(1, len(headers))) - {6})


def size(size_bytes: float) -> str:
    """Return a size; a size within the noise of a page per hundred clients is 0."""
    return "0 B" if abs(size_bytes) < 41 else format_size(round(size_bytes))


def notes(runs: Sequence[Run]) -> list[str]:
    """Return the notes under the table."""
    usable = [run for run in runs if run.unavailable is None]
    if not usable:
        return [f"{printable(run.label)} cannot be had: {printable(run.unavailable or '')}" for run in runs]
    first = usable[0]
    what = f"{format_size(first.limit_bytes)}, " + (
        "this machine's" if first.limit_kind == MACHINE else f"of a memory {first.limit_kind}, not of the machine"
    )
    lines = [
        f"Memory: {what}. Shared: {format_size(first.size_bytes)}. {first.wanted:,} clients wanted: forks of one small "
        f"Python, {format_size(first.private_bytes())} each with nothing mapped; {first.workers} read at a time.",
        "They attach by open and mmap at the region's address, as a C program does, and by the library where it is "
        "multiprocessing's.",
        "PAGE TABLES: what the region causes, measured with the clients reached (with †: at the last look before): all "
        "page tables less those of the same processes with nothing mapped. EACH MORE: its slope. The next column is "
        "arithmetic: that slope times the clients, and the creator's and the region's own.",
        "FAULTS: minor faults of a client that reads all of it, median. FORK, EXIT: of a client that has done so.",
        "SURVIVE: clients that read on after the creator's SIGKILL. NEWCOMER: whether one attaches by name then.",
    ]
    if first.limit_kind == V1:
        lines.append(
            "Page tables: VmPTE of all processes of the group, as v1 has no figure of its own. It counts tables that "
            "hugetlb shares in every process, and those of msharefs, which are the region's, in none."
        )
    wrong = sum(run.wrong for run in usable)
    lines.append(
        f"{wrong:,} clients did NOT find in every page what the creator wrote."
        if wrong
        else "Every client found in every page what the creator wrote."
    )
    if any(run.oom_kills for run in usable):
        lines.append("†: the kernel killed a client for lack of memory; no more were started.")
    if any(run.killed_later for run in usable):
        lines.append("‡: the kernel killed more for lack of memory when they read again.")
    if first.limit_kind != MACHINE and not all(run.charged for run in usable):
        uncharged = ", ".join(printable(run.label) for run in usable if not run.charged)
        lines.append(
            f"Huge pages of the pool are not charged to the group: FREE LEFT of {uncharged} is without the region."
        )
    if first.step_bytes > 4096:
        lines.append(
            f"Sparse: one page of every {format_size(first.step_bytes)} is there and is read. All last-level tables of "
            "the region exist, and 1 of 512 entries in them is used."
        )
    lines += [f"{printable(run.label)} FAILED: {printable(run.failure)}" for run in runs if run.failure is not None]
    lines += [
        f"{printable(run.label)} cannot be had: {printable(run.unavailable)}"
        for run in runs
        if run.unavailable is not None
    ]
    return lines
