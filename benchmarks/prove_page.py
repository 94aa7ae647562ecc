"""The page about `make prove`: results in, Markdown out. Pure. May depend on: lab, table, vm, units."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple, Self

from mshare._core.units import GIB, MIB, format_size, format_time
from mshare._tools.lab.run import Run
from mshare._tools.lab.scale import PROPOSAL, server
from mshare._tools.lab.show import client_table, memory_table, notes, size
from mshare._tools.table import Table
from vm import markdown

DYING = ("plain", "shared_memory")
"""Mechanisms that the proposal's server does not survive."""
TABLES_RATIO, SLOPE_LIMIT, TIME_RATIO = 400, 1.0, 1.3
"""Targets: the need of (a) divided by the cost of (e); bytes per further client and MiB of region; 4 GiB by 64 MiB."""


class Results(NamedTuple):
    """All runs, by their purpose."""

    factor: int
    mechanisms: list[Run]
    sweep: list[Run]
    """Runs of msharefs, one per size and round, small to large."""
    full: list[Run]
    """The sparse region of 300 GiB."""
    seconds: dict[str, float]
    facts: dict[str, Any]

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        found = {name: [Run.from_json(run) for run in guest["runs"]] for name, guest in document["guests"].items()}
        mechanisms = [run for name, runs in found.items() if name not in ("sweep", "full") for run in runs]
        guests = document["guests"].items()
        last: dict[str, Any] = list(document["guests"].values())[-1]
        seconds = {name: guest["seconds"] for name, guest in document["guests"].items()}
        ran = {name: f"{guest['facts'].get('date')}, host: {guest['facts'].get('host')}" for name, guest in guests}
        facts = {"guest": last["facts"].get("guest"), **(mechanisms[0].facts if mechanisms else {}), **ran}
        sweep = sorted(found.get("sweep", []), key=lambda run: run.size_bytes)
        return cls(document["factor"], mechanisms, sweep, found.get("full", []), seconds, facts)

    def sizes(self) -> list[list[Run]]:
        """Return the sweep's runs by size, small to large."""
        return [list(runs) for _, runs in groupby(self.sweep, key=lambda run: run.size_bytes)]

    def mechanism(self, name: str) -> Run | None:
        return next((run for run in self.mechanisms if run.mechanism == name and run.unavailable is None), None)


class Target(NamedTuple):
    """One thing that must be shown, and this run's value for it."""

    text: str
    value: str
    met: bool
    is_time: bool = False
    """Whether noise alone can miss the target."""


def targets(found: Results) -> list[Target]:
    """Return the targets that these results can be compared with."""
    return [*_clients(found), *_costs(found), *_sizes(found)]


def _clients(found: Results) -> Iterator[Target]:
    """Yield the targets about the clients: which are reached, which die, and which live on."""
    dying = [run for run in found.mechanisms if run.mechanism in DYING]
    living = [run for run in found.mechanisms if run.mechanism not in DYING]
    if dying:
        value = ", ".join(f"{run.reached:,} of {run.wanted:,}" for run in dying)
        dead = all(_whole(run) and run.reached < run.wanted and run.oom_log for run in dying)
        yield Target("4 KiB pages of one's own: memory runs out, and the kernel says so", value, dead)
    if living:
        names = ", ".join(run.mechanism for run in living)
        value = ", ".join(f"{run.reached:,}" for run in living)
        yield Target(f"{names}: all {living[0].wanted:,} clients are reached", value, all(map(_reached, living)))
        shut = sum(run.newcomer != "ok" for run in living)
        yield Target(f"{names}: the name outlives the creator", f"{shut} do not", shut == 0)
    runs = [*found.mechanisms, *found.sweep, *found.full]
    if runs:
        wrong = sum(run.wrong for run in runs)
        lost = sum(run.asked - run.survivors - run.killed_later for run in runs)
        yield Target("every client reads what the creator wrote", f"{wrong} do not", wrong == 0)
        yield Target("every client survives the creator's SIGKILL", f"{lost} do not", lost == 0)
    ours = [run for run in runs if run.mechanism == "msharefs" and run.reached]
    if ours:
        worst = max(run.faults.most - run.base_faults.least for run in ours)
        yield Target("no region faults per client on a warm region, of any size", f"{worst:,} at most", worst <= 0)


def _costs(found: Results) -> Iterator[Target]:
    """Yield the targets about the region's costs, compared with private page tables."""
    plain, ours = found.mechanism("plain"), found.mechanism("msharefs")
    if ours is not None and plain is not None and ours.wanted == PROPOSAL.clients:
        need, caused = plain.needed_bytes(ours.wanted), ours.caused_bytes()
        yield Target(
            f"page tables that the region causes: at most 1/{TABLES_RATIO} of what private 4 KiB pages need",
            f"{format_size(caused)} : {format_size(need)} = 1/{need / caused:,.0f}",
            caused * TABLES_RATIO <= need,
        )
    for run in found.full:
        if run.mechanism == "msharefs":
            text = f"{format_size(run.size_bytes)}: msharefs reaches {run.wanted:,} clients"
            yield Target(text, f"{run.reached:,}", _reached(run))


def _sizes(found: Results) -> Iterator[Target]:
    """Yield the targets about values that do not depend on the size."""
    if not found.sweep:
        return
    sizes = found.sizes()
    whole = all(map(_reached, found.sweep)) and len(sizes) > 1
    yield Target(
        f"by size: {found.sweep[0].wanted} clients are reached in every run", f"{len(found.sweep)} runs", whole
    )
    if not whole:
        return
    second = next((runs for runs in sizes if runs[0].size_bytes >= 256 * MIB), sizes[0])
    low, high = (median(run.per_client_bytes() for run in runs) for runs in (second, sizes[-1]))
    least, middle, most = (runs[0].size_bytes for runs in (sizes[0], second, sizes[-1]))
    slope = (high - low) / ((most - middle) / MIB)
    yield Target(
        f"page tables per further client do not depend on the size ({format_size(middle)} to {format_size(most)}): "
        f"below {SLOPE_LIMIT:.0f} byte per MiB",
        f"{slope:.3f} bytes per MiB",
        slope < SLOPE_LIMIT,
    )
    for name in ("fork", "exit"):
        few, many = _middle(sizes[0], f"{name}_ns"), _middle(sizes[-1], f"{name}_ns")
        yield Target(
            f"{name}: {format_size(most)} by {format_size(least)}, below {TIME_RATIO}",
            f"{format_time(many)} : {format_time(few)} = {many / few:.2f}, rounds differ by up to "
            f"{max(_scatter(runs, f'{name}_ns') for runs in (sizes[0], sizes[-1])):.2f}",
            many < TIME_RATIO * few,
            is_time=True,
        )


def _whole(run: Run) -> bool:
    return run.unavailable is None and run.failure is None


def _reached(run: Run) -> bool:
    return _whole(run) and run.reached == run.wanted


def _scatter(runs: list[Run], name: str) -> float:
    """Return the largest of the rounds divided by the smallest."""
    times = [int(getattr(run, name)) for run in runs]
    return max(times) / min(times)


def _middle(runs: list[Run], name: str) -> int:
    """Return the median over rounds of a field, in ns."""
    return round(median(int(getattr(run, name)) for run in runs))


def title(found: Results) -> str:
    small = server(found.factor)
    return (
        f"{format_size(small.region_bytes)} shared by {small.clients:,} processes on {format_size(small.memory_bytes)}"
        f": the proposal's server / {found.factor}"
    )


def page(found: Results, *, picture_name: str) -> str:
    """Return the page."""
    return "\n".join(
        [*_head(found, picture_name), *_targets(found), *_deaths(found), *_sweep(found), *_full(found), *_end(found)]
    )


def _markdown(table: Table) -> Iterator[str]:
    yield from markdown.table([header.lower() for header in table.headers], table.rows, table.right)


def _head(found: Results, picture_name: str) -> Iterator[str]:
    small = server(found.factor)
    yield "# The proposal's server: the crash, and the cure\n"
    yield (
        f"A server with {format_size(PROPOSAL.memory_bytes)} of memory, {format_size(PROPOSAL.region_bytes)} of it "
        f"shared by {PROPOSAL.clients:,} clients, ran out of memory (linux-kernel, January 2022): its page tables "
        f"alone would be 878 GiB. Here every size is divided by {found.factor}: {format_size(small.memory_bytes)}, "
        f"{format_size(small.region_bytes)} shared, {small.clients:,} real processes"
        + (
            "."
            if small.clients == PROPOSAL.clients
            else ", fewer than there, as a process's own memory does not shrink."
        )
        + f" With 4 KiB pages of their own they would need {format_size(small.private_tables_bytes)} of page tables.\n"
    )
    guests = "one guest" if len(found.seconds) == 1 else "one guest per mechanism"
    command = "make prove" + ("" if found.factor == 128 else f" FACTOR={found.factor}")
    yield (
        f"Made by `{command}` in {sum(found.seconds.values()) / 60:.0f} minutes. Stock "
        f"{found.facts.get('kernel', '?')}, {guests}, under QEMU. The processor is emulated: "
        "memory, page tables, faults and kills are the kernel's, **times are distorted** and mean something as ratios "
        "within one guest at most.\n"
    )
    yield f"![page tables against number of clients]({picture_name})\n"
    yield from _markdown(memory_table(found.mechanisms, small.clients))
    yield ""
    yield from _markdown(client_table(found.mechanisms))
    yield ""
    yield from (f"- {note}" for note in notes(found.mechanisms))
    yield ""


def _targets(found: Results) -> Iterator[str]:
    made = targets(found)
    if made:
        yield "## Targets\n"
        rows = tuple((target.text, target.value, "met" if target.met else "**missed**") for target in made)
        yield from _markdown(Table(("target", "this run", ""), rows))
        yield ""


def _deaths(found: Results) -> Iterator[str]:
    dead = [run for run in found.mechanisms if run.oom_log]
    if dead:
        yield "## What the kernel said\n"
        yield "The first kill of each run that ran out of memory. Counts in Mem-Info are pages of 4 KiB.\n"
    for run in dead:
        last = run.grown()[-1]
        yield (
            f"{run.label}, {run.reached:,} clients; at the last look before, with {last.clients:,}, "
            f"{format_size(last.page_tables_bytes)} of page tables; {run.oom_kills} killed when it was stopped:\n"
        )
        yield "```"
        yield from run.oom_log
        yield "```\n"


def _sweep(found: Results) -> Iterator[str]:
    if not found.sweep:
        return
    yield "## By size of the region\n"
    yield (
        f"msharefs, {found.sweep[0].wanted} clients each, {len(found.sizes()[0])} rounds: medians, and of faults the "
        "most. Last, the same with nothing mapped, in the same runs.\n"
    )
    rows = tuple(
        (
            format_size(runs[0].size_bytes), size(median(run.per_client_bytes() for run in runs)),
            f"{max(run.faults.most - run.base_faults.least for run in runs):,}",
            *(format_time(_middle(runs, name)) for name in ("fork_ns", "exit_ns", "base_fork_ns", "base_exit_ns")),
        )
        for runs in found.sizes()
    )  # fmt: skip
    headers = (
        "region",
        "page tables per further client",
        "faults",
        "fork",
        "exit",
        "fork, nothing mapped",
        "exit, nothing mapped",
    )
    yield from _markdown(Table(headers, rows, right=frozenset(range(1, 7))))
    yield ""


def _full(found: Results) -> Iterator[str]:
    if not found.full:
        return
    yield "## The full size\n"
    yield (
        f"A region of {size(found.full[0].size_bytes)} and {found.full[0].wanted:,} processes, in a guest of "
        f"{format_size(found.full[0].limit_bytes)}. The region is sparse: **one page of every 2 MiB exists**, so "
        "600 MiB of data. That is enough for every last-level table of the region to exist, at its full 4 KiB: the "
        "page-table bytes below are those of the full region, really built; 1 of 512 entries in each table is filled. "
        "Filling the others adds no table and costs 300 GiB of data.\n"
    )
    for run in found.full:
        last = run.grown()[-1] if run.samples else None
        if last is None:
            yield f"- {run.label}: {run.unavailable}"
            continue
        died = ", then out of memory" if run.oom_kills else ""
        yield (
            f"- {run.label}: {run.reached:,} clients{died}. All page tables in the machine that came with them: "
            f"{format_size(last.page_tables_bytes)}; caused by the region: {format_size(run.caused_bytes())}; per "
            f"further client {size(run.per_client_bytes())}, which makes "
            f"{size(run.needed_bytes(PROPOSAL.clients))} for {PROPOSAL.clients:,} (arithmetic). "
            f"Faults of a client: {run.faults.median:,.0f}. "
            f"{run.survivors:,} of {run.asked:,} survive the creator's SIGKILL"
            + (f" (the kernel killed {run.killed_later:,} for lack of memory)." if run.killed_later else ".")
        )
    ours = next((run for run in found.full if run.mechanism == "msharefs" and run.samples), None)
    if ours is not None and _reached(ours):
        ratio = 878 * GIB / ours.caused_bytes()
        yield f"\nThe proposal's 878 GiB against {format_size(ours.caused_bytes())}: 1/{ratio:,.0f}."
    yield ""


def _end(found: Results) -> Iterator[str]:
    yield "## Machine and raw data\n"
    yield from (f"- {name}: {value}" for name, value in found.facts.items())
    yield "- minutes per guest, boot included: " + ", ".join(
        f"{name} {seconds / 60:.1f}" for name, seconds in found.seconds.items()
    )
    yield "- every sample and figure: the `.json` beside this page; `mshare._tools.lab.run.Run.from_json` reads it"
    yield ""
