"""`make bench-huge-pages`: what pages of 2 MiB save in regions on msharefs, in instructions, faults and bytes.

`huge_pages.c` measures in a guest with one processor, whose clock counts instructions. The peers (tmpfs, hugetlb, and
regions with pages of 4 KiB) run in the same guest, in turn.

May depend on: costs, costs_page, machine, output, vm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from vm import markdown

from . import costs, machine, output
from .costs_page import Target, number, times

SOURCE = Path(__file__).with_suffix(".c")
MECHANISMS = ("nothing", "memfd", "hugetlb", "region, 4 KiB", "region, 2 MiB")
Figures = Mapping[str, Mapping[str, float]]

INTRODUCTION = (
    "Instructions of a guest with one processor, whose clock counts instructions (QEMU, `-icount shift=0`). "
    "Kernel and program are counted together. Instructions are not time. A *memfd* has pages of 4 KiB of "
    "tmpfs, and *hugetlb* is a memfd with pages of hugetlb. Its `fallocate` is counted with the filling of its "
    "pool, which was empty before. Each figure is a median of 3 rounds, in which the ways take turns.\n\n"
    "Random reads are not here, because the emulated processor has no TLB that counts. The leaves are those of "
    "hugetlb, and [benchmarks-host.md](benchmarks-host.md) has hugetlb's random reads on a real processor."
)


def parse(text: str) -> dict[str, dict[str, float]]:
    """Return the median of each figure that `huge_pages.c` printed, by case and mechanism."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in text.splitlines():
        case, mechanism, value = line.split("\t")
        found.setdefault(case, {}).setdefault(mechanism, []).append(float(value))
    return {case: {name: median(values) for name, values in mechanisms.items()} for case, mechanisms in found.items()}


def targets(figures: Figures) -> Iterator[Target]:
    """Yield each promise and its result."""
    huge = {case: mechanisms["region, 2 MiB"] for case, mechanisms in figures.items() if "region, 2 MiB" in mechanisms}

    def at_most(text: str, value: float, limit: float, *, ratio: bool = True) -> Target:
        return Target(text, times(value) if ratio else number(value), value <= limit)

    yield at_most("bytes of tables of 1 GiB, one tree: 4,096", huge["bytes of tables of 1 GiB"], 4096, ratio=False)
    sparse = huge["bytes of tables of 300 GiB, touched once per GiB"]
    yield at_most("bytes of tables of 300 GiB, touched once per GiB: at most 1.3 M", sparse, 1.3e6, ratio=False)
    yield at_most(
        "faults of the first touch of 1 GiB: 512", huge["faults of the first touch of 1 GiB"], 512, ratio=False
    )
    for who in ("a further process", "a forked child"):
        yield at_most(f"faults of {who}: 0", huge[f"faults of {who}"], 0, ratio=False)
    reserving = figures["fallocate of 512 MiB"]
    for other, limit in (("hugetlb", 0.7), ("region, 4 KiB", 0.35)):
        value = huge["fallocate of 512 MiB"] / reserving[other]
        yield at_most(f"fallocate of 512 MiB: at most {limit} times that of {other}", value, limit)
    attaching = huge["mmap and munmap of 1 GiB, all pages there"]
    touching = figures["mmap, touch and munmap of 1 GiB"]["memfd"]
    bare = figures["mmap and munmap of 1 GiB, all pages there"]["memfd"]
    yield at_most("attaching 1 GiB: at most 0.05 times mmap, touch and munmap of a memfd", attaching / touching, 0.05)
    yield at_most("attaching 1 GiB: at most 2 times mmap and munmap of a memfd", attaching / bare, 2)
    large = huge["mmap and munmap of 300 GiB, touched once per GiB"]
    yield at_most("attaching 300 GiB: at most 1.5 times attaching 1 GiB", large / attaching, 1.5)
    forking = figures["fork and exit"]
    yield at_most(
        "fork and exit, attached: at most 1.2 times the same without", huge["fork and exit"] / forking["nothing"], 1.2
    )
    one, many = (huge[f"MADV_DONTNEED of a page of 1 {unit}"] for unit in ("GiB", "TiB"))
    yield at_most("MADV_DONTNEED of a page of 1 TiB: at most 1.2 times that of 1 GiB", many / one, 1.2)


def page(document: Mapping[str, Any], remarks: list[str]) -> str:
    """Return the page about a run."""
    figures: Figures = document["figures"]
    kept = [name for name in MECHANISMS if any(name in mechanisms for mechanisms in figures.values())]
    rows = [[case, *(number(mechanisms.get(name)) for name in kept)] for case, mechanisms in figures.items()]
    promises = [[each.text, each.value, "yes" if each.met else "**no**"] for each in targets(figures)]
    return (
        "\n\n".join(
            [
                "# Pages of 2 MiB in regions on msharefs",
                f"`make bench-huge-pages`, Linux {document['kernel']}, {document['facts']['date']}. {INTRODUCTION}",
                "\n".join(f"- {remark}" for remark in remarks),
                "## Targets",
                "\n".join(markdown.table(["target", "found", "met"], promises, right=[1])),
                "## Figures",
                "\n".join(markdown.table(["", *kept], rows, right=range(1, len(kept) + 1))),
            ]
        )
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.huge_pages", description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="the guest's kernel (default %(default)s)")
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="for all (default %(default)s)")
    output.add_options(parser)
    options = parser.parse_args()
    directory = costs.REPOSITORY / "build" / "huge-pages"
    program, target = costs.compiled(directory, SOURCE), directory / "figures.tsv"
    line = f"mount -o remount,size=95%,huge=advise /sys/fs/mshare && {program} > {target}"
    guest = ["--kernel", options.kernel, "--icount", "--cpus", "1", "--memory", "4G"]
    costs.run(line, target, costs.REPOSITORY, guest, options.timeout)
    document = {
        "kernel": options.kernel,
        "commit": costs.last_change(),
        "facts": costs.facts(),
        "figures": parse(target.read_text()),
    }
    output.write(options, document, page(document, list(machine.remarks({"cpu": "TCG"}))))
    missed = [target for target in targets(document["figures"]) if not target.met]
    for each in missed:
        print(f"bench-huge-pages: missed: {each.text}: {each.value}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
