"""The figures of `make bench-postgres`: records, targets, and the page. Pure. May depend on: vm, units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from mshare._core.units import GIB, format_size
from vm import markdown

STOCK, HUGE = "huge_pages=off", "huge_pages=on"
LATER, AHEAD = "mshare run --fill later", "mshare run --fill ahead"
MSHAREFS, COLLAPSE = "mshare run (msharefs)", "mshare collapse"
SETTINGS = (STOCK, HUGE, LATER, AHEAD, COLLAPSE, MSHAREFS)
OURS = (LATER, AHEAD, COLLAPSE, MSHAREFS)

CLIENTS, SIZE_BYTES = 200, 2 * GIB
"""The targets are for this load, or for larger shared buffers."""
OF_STOCK, OF_HUGE, START_MS = 0.1, 1.1, 1000.0
"""Targets: page tables by those of 4 KiB pages and of huge pages, and how much longer a start may take."""


@dataclass(frozen=True, slots=True)
class PgbenchRun:
    """One pgbench run."""

    setting: str
    clients: int
    tps: float
    """Transactions per second in the second half of the run: median of pgbench's progress reports."""
    latency_ms: float
    """Measured as `tps` is."""
    whole_tps: float
    """Transactions per second of the whole run, without connecting (pgbench)."""
    connect_ms: float
    """The time until all clients were connected (pgbench)."""
    page_tables_bytes: int
    """Largest growth of the whole machine's `PageTables` (/proc/meminfo) during the run."""
    vmpte_bytes: int
    """Largest sum of `VmPTE` of all server processes during the run. The sum counts shared tables in each process."""
    minor_faults: int
    """Growth of the server's `cminflt` (/proc/PID/stat): all faults of the processes that serve clients."""


@dataclass(frozen=True, slots=True)
class ServerStart:
    """One start of the server, before the runs, and one more process of the server after them."""

    setting: str
    start_ms: float
    """From the start of the program until the server took connections, which pg_isready tries every 50 ms."""
    prewarm_ms: float
    """The time in which the data was read into shared buffers."""
    leaves_ms: float | None
    """From there until the thread of `--fill later` had no more block to collapse, or the time of `mshare collapse`;
    None if nothing had to be waited for, or if the wait ended before."""
    leaves: int | None
    """The number of 2 MiB pages of the server's shared memory when the runs began; None where that cannot be counted:
    without root, for hugetlb and for msharefs."""
    faults: int | None
    """Faults on the server's shared memory, by address, of a new process that reads the whole table, after the runs;
    None where the kernel cannot count them."""
    backend_minor_faults: int
    """All minor faults of that process (/proc/PID/stat)."""


class Target(NamedTuple):
    """A promise, and this run's result for it."""

    text: str
    value: str
    met: bool


class Results(NamedTuple):
    """All records of a run of the benchmark."""

    runs: Sequence[PgbenchRun]
    starts: Sequence[ServerStart]

    def group(self, clients: int, setting: str) -> list[PgbenchRun]:
        return [run for run in self.runs if (run.clients, run.setting) == (clients, setting)]

    def started(self, setting: str) -> list[ServerStart]:
        return [start for start in self.starts if start.setting == setting]


def targets(results: Results, size_bytes: int, *, timed: bool) -> Iterator[Target]:
    """Yield the targets that this run can decide. `timed`: the machine's times mean something."""
    for setting in OURS:
        if size_bytes >= SIZE_BYTES:
            yield from _tables(results, setting)
            if timed:
                yield from _speed(results, setting)
    faults, others = (
        [start.faults for start in results.started(each) if start.faults is not None] for each in (MSHAREFS, STOCK)
    )
    if faults and others:  # no fault anywhere would mean that the count does not work
        text = f"{MSHAREFS}: a new process that reads the whole table has no fault on shared memory"
        value = f"{max(faults):,} ({min(others):,} with {STOCK})"
        yield Target(text, value, max(faults) == 0 and min(others) > 0)
    later, stock = results.started(LATER), results.started(STOCK)
    if timed and size_bytes >= SIZE_BYTES and later and stock:
        longer = _middle(later, "start_ms") - _middle(stock, "start_ms")
        text = f"{LATER}: the start takes at most {START_MS:,.0f} ms longer than with {STOCK}"
        yield Target(text, f"{longer:+,.0f} ms", longer <= START_MS)


def _tables(results: Results, setting: str) -> Iterator[Target]:
    mine = results.group(CLIENTS, setting)
    for other, limit in ((STOCK, OF_STOCK), (HUGE, OF_HUGE)):
        theirs = results.group(CLIENTS, other)
        if mine and theirs:
            ratios = [
                _middle(mine, name) / max(1.0, _middle(theirs, name)) for name in ("page_tables_bytes", "vmpte_bytes")
            ]
            text = f"{setting}: page tables of {CLIENTS} clients are at most {limit:g} times those with {other}"
            value = f"{ratios[0]:.3f} (PageTables), {ratios[1]:.3f} (VmPTE)"
            yield Target(text, value, max(ratios) <= limit)


def _speed(results: Results, setting: str) -> Iterator[Target]:
    mine, huge = (results.group(CLIENTS, each) for each in (setting, HUGE))
    if mine and len(huge) > 1:
        rates = [run.tps for run in huge]
        least = median(rates) - (max(rates) - min(rates))
        text = f"{setting}: tps of {CLIENTS} clients is not below {HUGE} by more than the spread of {HUGE}"
        value = f"{_middle(mine, 'tps'):,.0f}; {median(rates):,.0f} less {max(rates) - min(rates):,.0f}"
        yield Target(text, value, _middle(mine, "tps") >= least)


def page(document: dict[str, Any], results: Results, remarks: Sequence[str]) -> str:
    """Return the page. `document`: what is known beside the records; `remarks`: about the machine."""
    emulated = "TCG" in document["machine"]["cpu"]
    lines = [f"# PostgreSQL{' in a guest' if emulated else ''}: `mshare run`, `mshare collapse` and huge pages", ""]
    if emulated:
        lines += [
            "An emulated processor (`make bench-postgres-vm`): **times are not real here**. The same on a real "
            "processor, with larger shared buffers: [postgres.md](postgres.md).",
            "",
        ]
    lines += [*_introduction(document), ""]
    lines += [f"- {key}: {value}" for key, value in document["machine"].items()]
    lines += [f"- {remark}" for remark in remarks]
    before, after = document["load_1min"]
    busy = ": **above 1, so other work ran beside it**" if before > 1 else ""
    lines += [
        f"- command: `{document['command']}`",
        f"- load average at the start {before:.2f}{busy}; at the end (its own clients included) {after:.2f}",
    ]
    lines += [f"- not measured: {text}" for text in document["missing"]]
    lines += ["", *_targets_section(list(targets(results, document["size_bytes"], timed=not emulated)))]
    lines += ["", *_runs_table(results), "", *_starts_section(results), "", *_ratios_section(results)]
    lines += [
        "",
        "PageTables is the whole machine's, with the processes of other programs. VmPTE is the server's own, and "
        "counts tables that processes share in each of them.",
        "",
        "The columns are explained at `PgbenchRun` and `ServerStart` in `benchmarks/postgres_page.py`.",
    ]
    return "\n".join(lines) + "\n"


def _introduction(document: dict[str, Any]) -> list[str]:
    rounds = "one round, whose tps is one sample"
    if document["rounds"] > 1:
        rounds = f"medians of {document['rounds']} rounds with the settings in alternating order; in brackets the "
        rounds += "least and the most"
    return [
        f"`pgbench -S -M prepared`, shared buffers of {format_size(document['size_bytes'])}, prewarmed, "
        f"{document['seconds']} s a run, {rounds}.",
        "",
        "A server process maps only what it has touched: page tables and faults grow with the length of a run, until "
        "every process has read all of the shared buffers. *tps* and *latency* are those of the second half of a run.",
        "",
        "- `huge_pages=off` and `huge_pages=on` are PostgreSQL without mshare.",
        "- `mshare run` is PostgreSQL with the variables of `mshare run --environment`. `--fill` decides when shared "
        "memory gets 2 MiB pages (`--backend thp`). With `--fill later` the runs begin when the data has 2 MiB pages.",
        "- `mshare collapse` is PostgreSQL without mshare. The kernel aligned the server's shared memory, because "
        "`shmem_enabled` was `advise` while the server started. `mshare collapse --pid` then made 2 MiB pages of the "
        "data before the clients came.",
        "- `mshare run (msharefs)` has the shared memory on msharefs, with shared page tables.",
    ]


def _targets_section(found: Sequence[Target]) -> list[str]:
    lines = ["## Targets", ""]
    if not found:
        text = f"This run decides no target: they are for {CLIENTS} clients, shared buffers of "
        return [*lines, f"{text}{format_size(SIZE_BYTES)} and times that are real, or for msharefs."]
    rows = [(each.text, each.value, "held" if each.met else "**missed**") for each in found]
    return [*lines, *markdown.table(["target", "measured", ""], rows)]


def _runs_table(results: Results) -> Iterator[str]:
    headers = ("clients", "", "PageTables", "VmPTE, sum", "minor faults", "connecting", "latency", "tps")
    rows = []
    for clients in sorted({run.clients for run in results.runs}):
        for setting in SETTINGS:
            group = results.group(clients, setting)
            if group:
                cells = (
                    str(clients),
                    setting,
                    _spread([run.page_tables_bytes for run in group], lambda value: format_size(int(value))),
                    _spread([run.vmpte_bytes for run in group], lambda value: format_size(int(value))),
                    f"{_middle(group, 'minor_faults'):,.0f}",
                    f"{_middle(group, 'connect_ms'):,.0f} ms",
                    f"{_middle(group, 'latency_ms'):.1f} ms",
                    _spread([run.tps for run in group], lambda value: f"{value:,.0f}"),
                )
                rows.append(cells)
    yield "## With clients"
    yield ""
    yield from markdown.table(headers, rows, right={*range(len(headers))} - {1})


def _starts_section(results: Results) -> Iterator[str]:
    headers = ("", "start", "prewarming", "2 MiB pages after", "2 MiB pages", "faults on shared memory", "minor faults")
    rows = []
    for setting in SETTINGS:
        group = results.started(setting)
        if group:
            waits = [start.leaves_ms for start in group if start.leaves_ms is not None]
            leaves = [start.leaves for start in group if start.leaves is not None]
            faults = [start.faults for start in group if start.faults is not None]
            cells = (
                setting,
                _spread([start.start_ms for start in group], lambda value: f"{value:,.0f} ms"),
                f"{_middle(group, 'prewarm_ms'):,.0f} ms",
                _spread(waits, lambda value: f"{value:,.0f} ms") if waits else "-",
                f"{median(leaves):,.0f}" if leaves else "-",
                f"{median(faults):,.0f}" if faults else "-",
                f"{_middle(group, 'backend_minor_faults'):,.0f}",
            )
            rows.append(cells)
    yield "## Starting, and a new process of a warm server"
    yield ""
    yield from markdown.table(headers, rows, right=range(1, len(headers)))
    yield ""
    yield (
        "*2 MiB pages after* is the time from the end of prewarming until the thread of `--fill later` had no more "
        "block to collapse, or the time of `mshare collapse`. *2 MiB pages* is the number of 2 MiB pages in the "
        "server's shared memory when the runs began."
    )
    yield ""
    yield (
        "The last two columns are of one more connection after the runs. Its process reads all of the table once. "
        "*Faults on shared memory* are events `page_fault_user` and `page_fault_kernel` of that process, from its "
        "beginning on, with an address in the server's shared memory. *Minor faults* is its `minflt` (/proc/PID/stat), "
        "with the faults on its own memory."
    )


_COMPARED = ("page_tables_bytes", "vmpte_bytes", "minor_faults", "connect_ms", "tps")


def _ratios_section(results: Results) -> Iterator[str]:
    rows = []
    for clients in sorted({run.clients for run in results.runs}):
        stock = results.group(clients, STOCK)
        for setting in SETTINGS:
            group = results.group(clients, setting)
            if group and stock and setting != STOCK:
                rows.append([str(clients), setting, *(_ratio(group, stock, name) for name in _COMPARED)])
    headers = ["clients", "", "PageTables", "VmPTE, sum", "minor faults", "connecting", "tps"]
    yield "## Divided by `huge_pages=off`"
    yield ""
    yield from markdown.table(headers, rows, right={*range(len(headers))} - {1})


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return the median, and the least and the most if there are several."""
    middle = show(median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def _middle(group: Sequence[PgbenchRun] | Sequence[ServerStart], name: str) -> float:
    return float(median(getattr(each, name) for each in group))


def _ratio(mine: Sequence[PgbenchRun], others: Sequence[PgbenchRun], name: str) -> str:
    other = _middle(others, name)
    return f"{_middle(mine, name) / other:.3f}" if other > 0 else "-"
