"""Plans and results for objects, as pairs of label and text and as JSON. Pure.
May depend on: plan, tally, units, geometry, scan, table."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._core.geometry import PAGE, PMD
from ..._core.units import format_list, format_size, format_time
from ..scan.show import bounds
from ..table import printable
from .plan import Candidate, unaligned_remedy
from .tally import Counts, Done

_BLOCK_S = (0.0007, 0.006)
"""The time to copy a block on Linux 6.18: to memory that the machine has at hand, and to memory that a hypervisor must
back first."""
_ENTRY_S = (0.15e-6, 0.45e-6)
"""The time to remove one page-table entry of 8 bytes there: on an idle machine, and on a busy one."""


class Prospect(NamedTuple):
    """The plan for an object."""

    candidate: Candidate
    counts: Counts | None
    """None where nothing can be done."""
    free_blocks: int | None
    """Blocks of 2 MiB that are free in one piece."""

    @property
    def part(self) -> float:
        """The part of the touched blocks that would be 2 MiB pages."""
        if self.counts is None:
            return 0.0
        there = self.counts.huge + self.counts.warm
        return there / (there + self.counts.cold) if there else 0.0

    @property
    def seconds(self) -> tuple[float, float]:
        """The least and the most time of the work."""
        if self.counts is None:
            return 0.0, 0.0
        touched = self.counts.huge + self.counts.warm + self.counts.cold
        entries = self.candidate.usage.now.likely / 8 * self.counts.warm / max(1, touched)
        low, high = (self.counts.warm * _BLOCK_S[i] + entries * _ENTRY_S[i] for i in (0, 1))
        return low, high


class Result(NamedTuple):
    """The result for an object."""

    prospect: Prospect
    done: Done
    counts: Counts | None
    """Afterwards; None if no process maps the object any more."""
    before: dict[int, int]
    """`VmPTE` in bytes of each process that maps the object."""
    after: dict[int, int]
    """The same, without processes that have ended."""


def _processes(count: int) -> str:
    return f"{count} process{'es' if count != 1 else ''}"


def _blocks(count: int) -> str:
    return f"{count} block{'s' if count != 1 else ''}"


def prospect_fields(prospect: Prospect, max_cpu: float = 100) -> list[tuple[str, str]]:
    """Return what would be done to an object, as pairs of label and text."""
    candidate, counts = prospect.candidate, prospect.counts
    usage = candidate.usage
    fields = [("object", printable(candidate.name)), ("size", format_size(usage.size))]
    aligned, every = len(candidate.aligned), len(candidate.mappings)
    fields.append(("mapped by", f"{_processes(usage.processes)}; {aligned} of {every} mappings are aligned to 2 MiB"))
    if candidate.refusal is not None or counts is None:
        fields.append(("page tables", f"{bounds(usage.now)} now"))
        if candidate.refusal is not None:
            fields += [("not possible", candidate.refusal.reason), ("what to do", candidate.refusal.remedy)]
        return fields
    fields += [
        ("page tables", f"{bounds(usage.now)} now, about {format_size(candidate.after(prospect.part))} afterwards"),
        ("blocks", _blocks_text(counts)),
    ]
    if counts.warm:
        low, high = (seconds * 100 / max_cpu for seconds in prospect.seconds)
        fields += [
            ("memory", _memory(counts, prospect.free_blocks)),
            ("time", f"{low:.1f} to {high:.1f} s, {max_cpu:g} % of which in the kernel; longer on a busy machine"),
        ]
    stay = candidate.unaligned_pids
    if stay:
        fields.append(
            (
                "unaligned",
                f"{_processes(len(stay))} would keep their page tables ({format_list(sorted(stay), 5)}): "
                + unaligned_remedy(candidate.thing),
            )
        )
    return fields


def _blocks_text(counts: Counts) -> str:
    alone = [f"{counts.cold} cold", f"{counts.empty} empty", *([f"{counts.swapped} in swap"] if counts.swapped else [])]
    return f"{counts.warm} warm, to be collapsed; {counts.huge} are 2 MiB pages already; {', '.join(alone)}: left alone"


def _memory(counts: Counts, free: int | None) -> str:
    text = f"{format_size(counts.missing_pages * PAGE)} more"
    if free is None:
        return text
    text += f"; {_blocks(free)} of 2 MiB are free in one piece"
    return text + (", so the kernel has to move pages, which takes longer" if free < counts.warm else "")


def result_fields(result: Result) -> list[tuple[str, str]]:
    """Return what was done to an object, as pairs of label and text."""
    done, counts = result.done, result.counts
    name = printable(result.prospect.candidate.name)
    collapsed = f"{done.collapsed} made 2 MiB pages"
    if counts is not None:
        collapsed += (
            f"; {counts.huge} are 2 MiB pages now, {counts.warm} warm, {counts.cold} cold, {counts.empty} empty"
        )
    fields = [("object", name), ("blocks", collapsed)]
    fields += [("refused", f"{number}: {reason}") for reason, number in sorted(done.reasons.items())]
    before, after = result.before, result.after
    both = before.keys() & after.keys()
    if both:
        sums = (sum(before[pid] for pid in both), sum(after[pid] for pid in both))
        largest = max(both, key=lambda pid: (before[pid], -pid))
        fields.append(
            (
                "VmPTE",
                f"{format_size(sums[0])} before, {format_size(sums[1])} now, sum of {_processes(len(both))}; largest: "
                f"{format_size(before[largest])}, now {format_size(after[largest])} (process {largest})",
            )
        )
    if ended := len(before) - len(both):
        fields.append(("ended", f"{_processes(ended)} in the meantime"))
    if done.collapsed or done.refused:
        fields.append(("time", f"{done.seconds:.2f} s in the kernel; longest block {format_time(done.worst_s * 1e9)}"))
    if done.stopped:
        fields.append(("ended early", done.stopped))
    return fields


def prospect_json(prospect: Prospect) -> dict[str, Any]:
    """Return what would be done to an object as JSON has it: exact bytes."""
    candidate, counts = prospect.candidate, prospect.counts
    refusal = candidate.refusal
    return {
        "object": candidate.name,
        "kind": candidate.thing.kind,
        "ino": candidate.thing.ino,
        "size": candidate.usage.size,
        "processes": candidate.usage.processes,
        "aligned_mappings": len(candidate.aligned),
        "mappings": len(candidate.mappings),
        "unaligned_pids": sorted(candidate.unaligned_pids),
        "page_table_bytes": candidate.usage.now._asdict(),
        "predicted_bytes": None if counts is None else candidate.after(prospect.part),
        "refusal": None if refusal is None else refusal._asdict(),
        "block_bytes": PMD,
        "blocks": None if counts is None else _counts_json(counts),
        "free_blocks": prospect.free_blocks,
        "estimated_seconds": list(prospect.seconds),
    }


def summary(result: Result) -> str:
    """Return what was done to an object in one line, for a log."""
    both = result.before.keys() & result.after.keys()
    before, after = (sum(sizes[pid] for pid in both) for sizes in (result.before, result.after))
    text = f"{_blocks(result.done.collapsed)} made 2 MiB pages in {result.done.seconds:.2f} s; VmPTE of "
    text += f"{_processes(len(both))} {format_size(before)} before, {format_size(after)} now"
    return f"{printable(result.prospect.candidate.name)}: {text}"


def _counts_json(counts: Counts) -> dict[str, int]:
    found = counts._asdict()
    found["missing_bytes"] = found.pop("missing_pages") * PAGE
    return found


def result_json(result: Result) -> dict[str, Any]:
    """Return what was done to an object as JSON has it: exact bytes, seconds."""
    done = result.done
    return {
        "collapsed": done.collapsed,
        "refused": done.reasons,
        "blocks": None if result.counts is None else _counts_json(result.counts),
        "vmpte_before": {str(pid): size for pid, size in sorted(result.before.items())},
        "vmpte_after": {str(pid): size for pid, size in sorted(result.after.items())},
        "seconds": round(done.seconds, 6),
        "longest_block_seconds": round(done.worst_s, 6),
        "stopped": done.stopped or None,
    }
