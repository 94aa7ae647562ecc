"""The figures of `benchmarks.costs` as Markdown: tables and targets. Pure: lines in, text out. May depend on: vm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from vm import markdown

GROUPS = {
    "fork": (
        "What a child costs",
        "`fork` to the end of `waitpid`, the child's life included, per child. The process is static and small. Each "
        "memfd and each region of 1 GiB has 16 MiB of pages, and the parent has touched the pages. A sparse file of "
        "64 GiB has one page per GiB. *200 further mappings* are private mappings without a page. *Python with numpy* "
        "is a process with about 200 mappings and their pages, and its region is where the library placed it. The "
        "module before commit c158a5c waits for an SRCU grace period at each exit, and its figures include the wait.",
    ),
    "dontneed": (
        "`MADV_DONTNEED` of one page in an attachment",
        "The file has one page, whatever its size. *Touch after* is the minor fault, which maps a memfd's page and "
        "links a region's unit. Each figure of a round is the median of 21 calls.",
    ),
    "faults": (
        "Faults after it",
        "Minor faults after `MADV_DONTNEED` of one page. The process has 64 GiB mapped with two pages in each GiB. "
        "The process has touched all pages, and touches all pages again.",
    ),
    "private": (
        "`MADV_DONTNEED` of other memory",
        "One private anonymous page, in a process with so many mappings of a memfd or attachments of a region.",
    ),
    "attach": (
        "`mmap` and `munmap`",
        "Of a file whose pages are there. *All pages touched*: one byte of each page is read in between.",
    ),
    "ioctl": ("Asking", "Attachments are in one process; processes are children of one that is attached."),
}
INTRODUCTION = (
    "Figures are instructions of a guest with one processor, whose clocks count instructions (QEMU, `-icount "
    "shift=0`). Kernel and program are counted together. Instructions are not time: cache misses, TLB misses "
    "and interrupts of other processors cost time and hardly an instruction, and a locked instruction counts "
    "as one. While the guest waits for a timer its clock follows the host's, and 1 ms of waiting counts as 1 "
    "M."
)
INTERRUPTS = "interrupts"
INTERRUPTS_TEXT = (
    "A process on CPU 0 takes the right to write one page away and gives the right back, 1,000 times. The "
    "table shows the interrupts that CPU 1 takes (rows `CAL` and `TLB` of `/proc/interrupts`) in that time, "
    "and in the same time without these calls; the two alternate 20 times. CPU 1 has not run the process that "
    "calls. A CPU that ran the process and has been idle since is interrupted as well. This guest has two "
    "processors and counts no instructions. *Work* is the number of rounds of a loop in user space on CPU 1. "
    "Work also depends on how the host shares its processors, and is a rough figure."
)
LIMIT = 1.2
"""A child that inherits a region costs at most so many times as much as a child with a memfd."""

Key = tuple[str, str, str]


class Target(NamedTuple):
    """A promise, and this run's result for it."""

    text: str
    value: str
    met: bool


def parse(text: str) -> dict[Key, list[float]]:
    """Return the rounds of each figure that `costs.c` printed. Raises ValueError for any other line."""
    found: dict[Key, list[float]] = {}
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) != 4:
            raise ValueError(f"not a figure: {line!r}")
        found.setdefault((words[0], words[1], words[2]), []).append(float(words[3]))
    return found


def nested(figures: Mapping[Key, Sequence[float]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return figures as JSON keeps them: group, case, mechanism, rounds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (group, case, mechanism), values in figures.items():
        found.setdefault(group, {}).setdefault(case, {})[mechanism] = list(values)
    return found


def rounds(figures: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> int:
    """Return the least number of times that any figure was measured."""
    return min(
        (len(found) for cases in figures.values() for mechanisms in cases.values() for found in mechanisms.values()),
        default=0,
    )


class Module(NamedTuple):
    """The medians of one module, by group, case and mechanism."""

    groups: Mapping[str, Mapping[str, Mapping[str, float]]]

    @classmethod
    def from_json(cls, document: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Module:
        return cls(
            {
                group: {
                    case: {mechanism: median(values) for mechanism, values in mechanisms.items()}
                    for case, mechanisms in cases.items()
                }
                for group, cases in document.items()
            }
        )

    def value(self, group: str, case: str, mechanism: str) -> float | None:
        return self.groups.get(group, {}).get(case, {}).get(mechanism)

    def ratio(self, group: str, case: str, mechanism: str = "region") -> float | None:
        """Return the cost as a multiple of the same cost with a memfd."""
        ours, rival = self.value(group, case, mechanism), self.value(group, case, mechanism.replace("region", "memfd"))
        return ours / rival if ours is not None and rival else None


def number(value: float | None) -> str:
    """Return a count with three significant digits, or all digits if the count is small."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:,.2f} M"
    return f"{value:,.0f}"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown.table(head, rows, right=range(1, len(head))))


def _table_of(group: str, now: Module, before: Module | None) -> str:
    cases = now.groups[group]
    has = {
        mechanism: any(mechanism in mechanisms for mechanisms in cases.values()) for mechanism in ("nothing", "memfd")
    }
    head = [
        group,
        *(mechanism for mechanism in has if has[mechanism]),
        "region",
        *(["region / memfd"] if has["memfd"] else []),
    ]
    if before:
        head += ["before", *(["before / memfd"] if has["memfd"] else [])]
    rows = []
    for case, mechanisms in cases.items():
        for mechanism in [mechanism for mechanism in mechanisms if mechanism.startswith("region")]:
            extra = mechanism.removeprefix("region")
            row = [
                case + extra,
                *(number(now.value(group, case, other)) for other in has if has[other] and other == "nothing"),
            ]
            if has["memfd"]:
                row.append(number(now.value(group, case, f"memfd{extra}")))
            row.append(number(now.value(group, case, mechanism)))
            if has["memfd"]:
                row.append(times(now.ratio(group, case, mechanism)))
            if before:
                row.append(number(before.value(group, case, mechanism)))
                if has["memfd"]:
                    row.append(times(before.ratio(group, case, mechanism)))
            rows.append(row)
    return _table(head, rows)


def _interrupts(now: Module, before: Module | None) -> str:
    names = {"idle": "CPU 1 idle", "stranger": "a stranger on CPU 1", "attached": "an attached process on CPU 1"}
    modules = [("", now), *([(", before", before)] if before else [])]
    head = ["interrupts", *(name + when for when, _ in modules for name in names.values())]
    rows = []
    for case in now.groups[INTERRUPTS]:
        row = [case]
        for _, module in modules:
            row += [number(module.value(INTERRUPTS, case, load)) for load in names]
        rows.append(row)
    return _table(head, rows)


def targets(now: Module) -> Iterator[Target]:
    """Yield each promise about the counts."""
    for case, mechanisms in now.groups.get("fork", {}).items():
        for mechanism in mechanisms:
            found = now.ratio("fork", case, mechanism)
            if mechanism.startswith("region") and found is not None:
                text = f"{case} with a {mechanism}: at most {LIMIT} times the cost with a memfd"
                yield Target(text, times(found), found <= LIMIT)
    one = now.value("dontneed", "of a page in 1 GiB", "region")
    large = now.value("dontneed", "of a page in 16384 GiB", "region")
    if one and large:
        yield Target(
            "letting go of a page costs the same in 1 GiB and in 16 TiB", times(large / one), large / one <= 1.5
        )
    other = now.value("faults", "in 63 other units", "region")
    if other is not None:
        yield Target("no fault in other units", number(other), other == 0)
    none, many = (now.value("private", f"{count} attachments", "region") for count in (0, 1000))
    if none and many:
        yield Target("other memory costs the same with 1,000 attachments", times(many / none), many / none <= 1.2)
    for name, few, large_ in (("INFO, {} attachments", 1, 1000), ("PIDS, capacity 1, {} processes", 1, 1000)):
        first, last = (now.value("ioctl", name.format(count), "region") for count in (few, large_))
        if first and last:
            text = f"{name.format('1,000')}: costs the same as with 1"
            yield Target(text, times(last / first), last / first <= 1.2)
    calls = now.value(INTERRUPTS, "CAL, 1,000 x (protect, unprotect)", "stranger")
    if calls is not None:
        yield Target("a stranger's CPU is not interrupted by 2,000 changes of protection", number(calls), calls < 200)


def page(document: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """Return the page about a run."""
    modules = document["modules"]
    now = Module.from_json(modules["now"])
    before = Module.from_json(modules["before"]) if "before" in modules else None
    facts = document["facts"]
    parts = [
        "# What the kernel module costs, in instructions",
        f"`make bench-kernel`, Linux {document['kernel']}, {facts['date']}. {INTRODUCTION} "
        f"Each figure is the median of {rounds(modules['now'])} rounds."
        + (f" *Region* is the module of commit {document['commit']}." if document["commit"] else "")
        + (f" *Before* is the module of commit {document['before']}." if before else ""),
        *(f"- {remark}" for remark in remarks),
    ]
    found = list(targets(now))
    if found:
        rows = [[target.text, target.value, "yes" if target.met else "**no**"] for target in found]
        parts += ["## Targets", _table(["target", "found", "met"], rows)]
    for group, (title, text) in GROUPS.items():
        if group in now.groups:
            parts += [f"## {title}", text, _table_of(group, now, before)]
    if INTERRUPTS in now.groups:
        parts += [
            "## Interrupts",
            INTERRUPTS_TEXT,
            _interrupts(now, before),
        ]
    return "\n\n".join(parts) + "\n"
