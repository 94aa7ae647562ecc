"""The command line: `python3 -m vm kernels | run | test | shell | selftest`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import machine, store, verdict
from .errors import VmError


def progress(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m vm")
    sub = parser.add_subparsers(dest="action", required=True)
    kernels = sub.add_parser("kernels")
    kernels.add_argument("series", nargs="*", default=["6.12", "6.1"])
    kernels.add_argument("--refresh", action="store_true")
    run = sub.add_parser("run")
    run.add_argument("--kernel", default="6.12")
    run.add_argument("--memory", default="2G")
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--timeout", type=int, default=600)
    run.add_argument("--append", default="")
    run.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    cache = store.cache_directory()
    try:
        if options.action == "kernels":
            for series in options.series:
                kernel = store.ensure(cache, series, progress, refresh=options.refresh)
                print(f"{kernel.release}  {kernel.image}  KDIR={kernel.build}")
            return 0
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        kernel = store.ensure(cache, options.kernel, progress)
        cwd = Path.cwd()
        guest = machine.Machine(kernel, options.memory, options.cpus, options.timeout, options.append, (cwd,))
        script = machine.command_script(command, cwd, machine.guest_environment({}))

        def show(stream: int, data: bytes) -> None:
            target = sys.stdout if stream == 1 else sys.stderr
            target.buffer.write(data)
            target.buffer.flush()

        progress(f"booting {kernel.release}")
        boot = machine.run(guest, script, show)
        progress(f"{boot.verdict.outcome.value}: {boot.verdict.reason} (boot {boot.boot_seconds}, total {boot.total_seconds:.1f} s; {boot.directory})")
        for line in boot.verdict.excerpt:
            print(line, file=sys.stderr)
        return boot.verdict.exit_code
    except VmError as error:
        progress(str(error))
        return verdict.EXIT_HOST
