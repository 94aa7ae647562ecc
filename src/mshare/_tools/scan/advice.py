"""The meaning of a survey in plain sentences, and the useful actions. Pure.
May depend on: snapshot, survey, show, series, case, remedies, mappings, table, units, backend (the
type)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.units import MIB, format_size
from ..table import printable
from .case import Case, Remedy
from .mappings import mappings
from .remedies import remedies
from .series import page_tables
from .show import bounds, label
from .snapshot import Process, Snapshot
from .survey import Bytes, ObjectUsage, Survey

if TYPE_CHECKING:
    from ..._core.backend import Backend

LEAST_BYTES = 64 * MIB
LEAST_PART = 0.01
"""Page tables below both (1 % of `MemTotal`) need no action. A remedy must save a quarter of either."""

_NAMED = 3


class Advice(NamedTuple):
    """One important object, and its remedies."""

    title: str
    """A printable description of the object: PostgreSQL's shared memory."""
    objects: tuple[str, ...]
    """The object's name in `scan`, printable."""
    kind: str
    processes: int
    now: Bytes
    remedies: tuple[Remedy, ...]
    """The remedies, the one that suits the program first; never empty."""

    @property
    def saving(self) -> int:
        """Bytes that the first remedy saves."""
        return self.remedies[0].saving


class Verdict(NamedTuple):
    """The judgement on one snapshot."""

    act: bool
    """True if a remedy is worth its work. Otherwise `advice` is empty."""
    sentences: tuple[str, ...]
    """The verdict in words, the most important first; printable."""
    page_tables: int
    """Bytes of `series.page_tables`."""
    memory: int
    """Bytes of `MemTotal`, 0 if unknown."""
    advice: tuple[Advice, ...]
    """The largest saving first."""

    @property
    def saving(self) -> int:
        """Bytes that the first remedies of all objects save together."""
        return sum(each.saving for each in self.advice)

    @property
    def titles(self) -> dict[str, str]:
        """The advice's names of objects, by their names in `scan`."""
        return {name: each.title for each in self.advice for name in each.objects}


def matters(size_bytes: float, memory_bytes: int) -> bool:
    """Tell whether page tables of that size matter on a machine with that much memory."""
    return size_bytes >= LEAST_BYTES or (memory_bytes > 0 and size_bytes >= LEAST_PART * memory_bytes)


def judge(snapshot: Snapshot, survey: Survey, backends: Sequence[Backend]) -> Verdict:
    """Return the verdict on a snapshot with this `survey`. `backends`: those on which regions may be advised."""
    total = page_tables(snapshot, survey)
    memory = snapshot.system.memory.get("MemTotal", 0)
    found = tuple(_advice(snapshot, survey, backends, memory)) if matters(total, memory) else ()
    sentences = tuple(_sentences(snapshot, survey, total, memory, found))
    return Verdict(bool(found), sentences, total, memory, found)


def _advice(snapshot: Snapshot, survey: Survey, backends: Sequence[Backend], memory: int) -> Iterator[Advice]:
    """Yield advice on every object for which a remedy saves enough. Earlier objects get huge pages first."""
    promised = 0
    cases = _cases(snapshot, survey)
    cases.sort(key=lambda case: -case.now)
    found = []
    everywhere = mappings(snapshot)
    for case in cases:
        possible = remedies(case._replace(promised=promised, everywhere=everywhere), backends)
        worth = tuple(each for each in possible if matters(4 * each.saving, memory))
        if not worth:
            continue
        promised += worth[0].huge_pages
        now = Bytes.total(usage.now for usage in case.usages)
        names = tuple(printable(label(usage.object)) for usage in case.usages)
        found.append(Advice(_title(case, names), names, case.kind, len(case.users), now, worth))
    yield from found


def _cases(snapshot: Snapshot, survey: Survey) -> list[Case]:
    """Return the objects that are mapped shared, those of one Oracle instance together."""
    by_pid: dict[int, Process] = {process.pid: process for process in snapshot.processes}
    cases: list[Case] = []
    for usage in survey.usages:
        if usage.object is None or not usage.shared or not usage.by_process:
            continue
        users = tuple(by_pid[pid] for pid in usage.by_process if pid in by_pid)
        case = Case((usage,), users, snapshot)
        if case.program == "Oracle":
            for index, other in enumerate(cases):
                if other.program == "Oracle" and set(other.users) & set(users):
                    every = {process.pid: process for process in (*other.users, *users)}
                    cases[index] = Case((*other.usages, usage), tuple(every.values()), snapshot)
                    break
            else:
                cases.append(case)
        else:
            cases.append(case)
    return cases


def _title(case: Case, names: tuple[str, ...]) -> str:
    whose = {"PostgreSQL": "PostgreSQL's shared memory", "Oracle": "Oracle's SGA", "Java": "Java's heap"}
    return whose.get(case.program, names[0])


def part(size_bytes: float, whole_bytes: float) -> str:
    """Return a part in percent: `12 %`, `0.4 %`, `under 0.1 %`."""
    percent = 100 * size_bytes / whole_bytes
    return "under 0.1 %" if percent < 0.1 else f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def _wide(now: Bytes) -> bool:
    return 2 * now.lower < now.upper


def _about(now: Bytes) -> str:
    if _wide(now):
        return f"between {format_size(now.lower)} and {format_size(now.upper)}"
    return ("about " if ".." in bounds(now) else "") + format_size(now.likely)


def _sentences(snapshot: Snapshot, survey: Survey, total: int, memory: int, found: tuple[Advice, ...]) -> Iterator[str]:
    whose = f" of the {_count(len(snapshot.processes))} chosen" if snapshot.partial else ""
    start = f"Page tables{whose} take {format_size(total)}"
    if memory:
        start += f", {part(total, memory)} of memory"
    if not matters(total, memory):
        yield f"{start}: nothing to do."
    elif found:
        first, *others = found
        one = "one object, " if len(first.objects) == 1 else f"{len(first.objects)} objects, "
        yield f"{start}; {_about(first.now)} of it for {one}{_whom(first)}. {_better(first.remedies[0])}"
        for each in others[: _NAMED - 1]:
            yield f"Another {_about(each.now)} are for {_whom(each)}. {_better(each.remedies[0])}"
        if more := others[_NAMED - 1 :]:
            yield f"{len(more)} more objects could save {format_size(sum(each.saving for each in more))} together."
    else:
        yield f"{start}, but no remedy that fits this machine would save much of that."
        yield from _largest(survey.usages, total)
    if any(_wide(each.now) for each in found):
        yield "Where it says between, much may be mapped and never touched: with --exact the page tables are walked."
    unread = sum(each.processes for each in survey.unreadable)
    if unread and (matters(survey.totals.unreadable, memory) or 10 * survey.totals.unreadable >= total):
        yield (
            f"{format_size(survey.totals.unreadable)} are of {_count(unread)} that could not be read: "
            "root would see more."
        )


def _whom(advice: Advice) -> str:
    return f"{advice.title} in {_count(advice.processes)}"


def _count(processes: int) -> str:
    return f"{processes} process{'es' if processes != 1 else ''}"


def _better(remedy: Remedy) -> str:
    return f"With {remedy.name} it would be {format_size(remedy.predicted)}."


def _largest(usages: tuple[ObjectUsage, ...], total: int) -> Iterator[str]:
    private = next((usage for usage in usages if usage.object is None), None)
    if private is not None and 2 * private.now.likely > total:
        yield (
            f"{_about(private.now)} are for the processes' private memory, which cannot be shared: fewer processes, or "
            "larger pages for their heaps (transparent huge pages), make it smaller."
        )


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON has it: exact bytes."""
    return {
        "act": verdict.act,
        "sentences": list(verdict.sentences),
        "page_table_bytes": verdict.page_tables,
        "memory_bytes": verdict.memory,
        "saving_bytes": verdict.saving,
        "advice": [
            {
                "title": each.title,
                "objects": list(each.objects),
                "kind": each.kind,
                "processes": each.processes,
                "page_table_bytes": each.now._asdict(),
                "remedies": [
                    {
                        "name": remedy.name,
                        "condition": remedy.condition,
                        "commands": list(remedy.commands),
                        "predicted_bytes": remedy.predicted,
                        "saving_bytes": remedy.saving,
                        "huge_pages": remedy.huge_pages,
                        "evidence": remedy.evidence,
                    }
                    for remedy in each.remedies
                ],
            }
            for each in verdict.advice
        ],
    }
