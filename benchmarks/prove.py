"""`make prove`: the proposal's server in guests with a stock kernel, and the page about it.

Each mechanism has its own guest, because one mechanism ends with the machine out of memory. Half the time of five
guests is their start, so a small run has one guest, in which that mechanism comes last. In every guest `mshare lab sga`
runs as a user would run it, with `--whole-machine`. This program collects the JSON. `prove_page` makes the page and
`mshare._tools.lab.picture` the picture.

May depend on: prove_page, lab, units, geometry, record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mshare._core.geometry import PMD
from mshare._core.record import file_size
from mshare._core.units import MIB, format_size
from mshare._tools.lab import picture
from mshare._tools.lab.run import Run
from mshare._tools.lab.scale import MOST_FULL, PROPOSAL, server

from . import prove_page

MECHANISMS = ("plain", "shared_memory", "thp", "hugetlb", "msharefs")
SWEEP = ("64M", "256M", "1G", "2G", "4G")
SWEEP_CLIENTS = 32
SWEEP_ROUNDS = 3
"""Times are medians of so many rounds. Every other round goes from large to small: a drift is then not an effect."""
LARGE = 128
"""The factor of the run that is kept in docs/results."""


class Guest(NamedTuple):
    """One boot, and its loads: runs of `mshare lab sga` with different arguments, each written into its own file."""

    name: str
    memory_bytes: int
    loads: tuple[tuple[str, ...], ...]
    huge_pages: int = 0
    """Pages that are reserved at the boot and given back after the first load."""
    needs_module: bool = False


def guests(factor: int) -> list[Guest]:
    """Return the guests to boot. Small runs leave out the sweep over sizes, the full size, and `shared_memory`, which
    ends as `plain` does."""
    small, scaled = server(factor), ("--factor", str(factor))
    pages = file_size(small.region_bytes, PMD) // PMD
    if factor > MOST_FULL:
        loads = tuple(("--mechanisms", mechanisms, *scaled) for mechanisms in ("hugetlb", "thp,msharefs,plain"))
        return [Guest("mechanisms", small.memory_bytes, loads, huge_pages=pages, needs_module=True)]
    found = [
        Guest(
            mechanism,
            small.memory_bytes,
            (("--mechanisms", mechanism, *scaled),),
            huge_pages=pages if mechanism == "hugetlb" else 0,
            needs_module=mechanism == "msharefs",
        )
        for mechanism in MECHANISMS
    ]
    few = str(SWEEP_CLIENTS)
    sizes = tuple(("--mechanisms", "msharefs", "--clients", few, "--size", size) for size in SWEEP)
    rounds = (sizes[:: -1 if number % 2 else 1] for number in range(SWEEP_ROUNDS))
    found.append(Guest("sweep", 6144 * MIB, tuple(chain.from_iterable(rounds)), needs_module=True))
    full = ("--mechanisms", "msharefs,plain", "--size", "300G", "--sparse", "--clients", str(PROPOSAL.clients))
    found.append(Guest("full", 4096 * MIB, (full,), needs_module=True))
    return found


def script(guest: Guest, directory: Path) -> str:
    """Return the shell line that runs in the guest, as root."""
    lines = ["mount -o remount,size=95% /dev/shm"]
    if guest.needs_module:
        lines.append("mount -o remount,size=95% /sys/fs/mshare")
    if guest.huge_pages:
        lines += ["mkdir -p /dev/hugepages", "mount -t hugetlbfs -o mode=1777,pagesize=2M none /dev/hugepages"]
    program = shlex.quote(str(Path(sys.executable).parent / "mshare"))
    for number, load in enumerate(guest.loads):
        target = shlex.quote(str(directory / f"{guest.name}-{number}.json"))
        lines.append(f"{program} lab sga --whole-machine --json {shlex.join(load)} > {target}")
        if guest.huge_pages:
            lines.append("echo 0 > /proc/sys/vm/nr_hugepages")
    return " && ".join(lines)


def boot(guest: Guest, directory: Path, limit_seconds: int) -> list[Run]:
    """Run a guest and return its runs. Raises RuntimeError unless the guest passes. A complaint in the kernel's log is
    not a pass. A kill for lack of memory is not a complaint."""
    command = [sys.executable, "-m", "vm", "run", "--memory", f"{guest.memory_bytes // MIB}M"]
    command += ["--timeout", str(limit_seconds), *(("--module",) if guest.needs_module else ())]
    if guest.huge_pages:
        command += ["--append", f"hugepages={guest.huge_pages}"]
    status = subprocess.run([*command, "--", script(guest, directory)], check=False).returncode
    if status:
        raise RuntimeError(f"guest {guest.name} ended with status {status}; what it said is above")
    texts = [(directory / f"{guest.name}-{number}.json").read_text() for number in range(len(guest.loads))]
    return [Run.from_json(run) for text in texts for run in json.loads(text)["runs"]]


def facts() -> dict[str, Any]:
    """Return the facts without which the numbers mean nothing."""
    lines = Path("/proc/cpuinfo").read_text().split("\n")
    kernel = platform.release().partition("-")[0]
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "host": f"{model}, {os.cpu_count()} CPUs, Linux {kernel}, load {os.getloadavg()[0]:.1f}",
        "guest": "QEMU, processor emulated (TCG), 2 virtual CPUs, panic_on_warn=1",
    }


def run_guest(guest: Guest, directory: Path, limit_seconds: int) -> None:
    """Boot a guest, and keep its results."""
    start = time.monotonic()
    print(f"prove: guest {guest.name}, {format_size(guest.memory_bytes)}", file=sys.stderr, flush=True)
    runs = boot(guest, directory, limit_seconds)
    document = {"seconds": time.monotonic() - start, "facts": facts(), "runs": [run.as_json() for run in runs]}
    _kept(guest, directory).write_text(json.dumps(document))


def _kept(guest: Guest, directory: Path) -> Path:
    return directory / f"{guest.name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove", description=__doc__)
    parser.add_argument(
        "--factor", type=int, default=LARGE, help="divide the proposal's sizes by it (default %(default)s)"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="GUEST",
        help="boot only this one, and take what others gave earlier; may be repeated",
    )
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="per guest (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        help="without suffix; default docs/results/prove if all guests are in, or build/prove/FACTOR/prove",
    )
    options = parser.parse_args()
    directory = Path.cwd() / "build" / "prove" / str(options.factor)
    directory.mkdir(parents=True, exist_ok=True)
    known = guests(options.factor)
    for guest in known:
        if not options.only or guest.name in options.only:
            run_guest(guest, directory, options.timeout)
    files = {guest.name: _kept(guest, directory) for guest in known}
    given = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    whole = options.factor == LARGE and len(given) == len(known)
    output = options.output or (Path("docs/results/prove") if whole else directory / "prove")
    document = {"factor": options.factor, "guests": given}
    output.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    found = prove_page.Results.from_json(document)
    svg = picture.draw(found.mechanisms, title=prove_page.title(found))
    if svg is not None:
        output.with_suffix(".svg").write_bytes(svg)
    output.with_suffix(".md").write_text(prove_page.page(found, picture_name=f"{output.name}.svg"))
    print(f"prove: {output.with_suffix('.md')}", file=sys.stderr)
    missed = [target for target in prove_page.targets(found) if not target.met and not target.is_time]
    for target in missed:
        print(f"prove: missed: {target.text}: {target.value}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
