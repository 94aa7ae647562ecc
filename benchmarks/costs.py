"""`make bench-kernel`: the costs of the kernel module, in instructions and interrupts, and the page about them.

`costs.c` measures in two guests. One guest counts instructions, which needs one virtual CPU. The other counts
interrupts, which needs two. `costs_python.py` adds the children of a Python process. With `--before COMMIT` the module
of that commit runs the same programs. `costs_page` makes the page.

May depend on: costs_page, machine, output.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import costs_page, machine, output

SOURCE = Path(__file__).with_suffix(".c")
PYTHON_SOURCE = SOURCE.with_name("costs_python.py")
PYTHON_ROUNDS = 5
REPOSITORY = SOURCE.parent.parent
GUESTS = {
    "counts": ("--icount", "--cpus", "1", "--memory", "4G"),
    "interrupts": ("--cpus", "2", "--memory", "2G"),
}


def compiled(directory: Path, source: Path = SOURCE) -> Path:
    """Compile a program of one file without shared libraries, so that its processes are small. Return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / source.stem
    include = REPOSITORY / "kernel" / "uapi"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Werror", "-static", f"-I{include}", "-o", program, source],
        check=True,
    )
    return program


def checked_out(commit: str, directory: Path) -> Path:
    """Put `kernel/` of a commit below `directory`, and return its path."""
    archive = subprocess.run(["git", "archive", commit, "kernel"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


def script(program: Path, guest: str, target: Path) -> str:
    """Return the shell line that runs in the guest, as root. The program runs from memory, since `exec` is measured."""
    lines = ["mount -o remount,size=95% /sys/fs/mshare", f"cp {program} /run/costs", f"/run/costs {guest} > {target}"]
    if guest == "counts":
        for mechanism in ("nothing", "memfd", "region") * PYTHON_ROUNDS:
            lines.append(f"{sys.executable} {PYTHON_SOURCE} {mechanism} >> {target}")
    return " && ".join(lines)


def boot(program: Path, guest: str, source: Path, kernel: str, limit_seconds: int) -> str:
    """Run a guest with the module whose `kernel/` is in `source`, and return the program's output. Raises RuntimeError
    unless the guest passes. A complaint in the kernel's log is not a pass."""
    print(f"bench-kernel: {guest}, module of {source}", file=sys.stderr, flush=True)
    target = source / "build" / f"costs-{guest}.tsv"
    run(script(program, guest, target), target, source, ["--kernel", kernel, *GUESTS[guest]], limit_seconds)
    return target.read_text()


def run(line: str, target: Path, source: Path, options: Sequence[str], limit_seconds: int) -> None:
    """Run a shell line, which writes the file `target`, in a guest with the module whose `kernel/` is in `source`.
    Raises RuntimeError unless the guest passes.

    A guest that dies before the command starts is booted again, once: see vm/README.md on the emulator's race.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vm", "run", "--module", "--json", *options]
    command += ["--timeout", str(limit_seconds), "--", line]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):
        done = subprocess.run(command, cwd=source, env=environment, stdout=subprocess.PIPE, check=False)
        if done.returncode == 0:
            return
        if not done.stdout or json.loads(done.stdout)["boot_seconds"] is not None:
            break
    raise RuntimeError(f"the guest ended with status {done.returncode}; what it said is above")


def last_change() -> str | None:
    """Return the commit that last changed `kernel/`; None outside a checkout, or when `kernel/` differs from it."""
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "kernel"], cwd=REPOSITORY, check=False).returncode:
        return None
    command = ["git", "log", "-1", "--format=%h", "--", "kernel"]
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() or None


def facts() -> dict[str, Any]:
    """Return the facts without which the numbers mean nothing."""
    return {**machine.facts(packages=()), "guest": "QEMU, processor emulated (TCG), panic_on_warn=1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--kernel", default="6.12", help="the guests' kernel (default %(default)s)")
    parser.add_argument("--before", metavar="COMMIT", help="also measure the module of that commit")
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="per guest (default %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="MODULE-GUEST",
        help="boot only this one (now-counts, before-interrupts), and take what others gave earlier; may be repeated",
    )
    output.add_options(parser)
    options = parser.parse_args()
    directory = REPOSITORY / "build" / "costs"
    program = compiled(directory)
    sources = {"now": REPOSITORY}
    if options.before:
        sources["before"] = checked_out(options.before, directory / "before")
    modules = {}
    for module, source in sources.items():
        text = ""
        for guest in GUESTS:
            kept = directory / f"{module}-{guest}.tsv"
            if not options.only or f"{module}-{guest}" in options.only:
                kept.write_text(boot(program, guest, source, options.kernel, options.timeout))
            text += kept.read_text() if kept.exists() else ""
        modules[module] = costs_page.nested(costs_page.parse(text))
    found = facts()
    document = {
        "kernel": options.kernel,
        "commit": last_change(),
        "before": options.before,
        "facts": found,
        "modules": modules,
    }
    output.write(options, document, costs_page.page(document, machine.remarks({"cpu": "TCG"})))
    missed = [target for target in costs_page.targets(costs_page.Module.from_json(modules["now"])) if not target.met]
    for target in missed:
        print(f"bench-kernel: missed: {target.text}: {target.value}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
