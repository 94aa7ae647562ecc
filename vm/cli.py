"""The command line: `python3 -m vm kernels | run | test | shell | lint | selftest`.

May depend on: debug, lint, machine, page, report, selftest, store, suite, verdict, errors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from . import debug, lint, machine, page, report, selftest, store, suite, verdict
from .errors import HostToolMissing, VmError
from .store import Kernel

SERIES = ("6.12", "6.1")
# For one test. The limit in pyproject.toml is for the host, and a guest is many times slower.
PYTEST_TIMEOUT_SECONDS = 600
DESCRIPTION = """\
Boots stock Debian kernels in QEMU (software emulation) and runs commands and tests in them. The guest sees this
machine's files. The current directory is writable in the guest, except its src, tests, benchmarks and virtual
environment, which are read-only and fast. The guest's writes to all other files are thrown away.
"""
EPILOG = f"""\
examples:
  python3 -m vm kernels                              fetch the newest stock 6.12 and 6.1, say where they are
  python3 -m vm run -- uname -a                      a program and its arguments, exactly as given
  python3 -m vm run --kernel 6.1 -- 'ls /sys | wc'   one word: a shell command line
  python3 -m vm run --module -- python3 demo.py      with mshare.ko built, inserted and mounted around it
  python3 -m vm test --kernel 6.12 --kernel 7.3 -- -k fork
  python3 -m vm shell --kernel 6.12

exit status:
  0     passed: the command succeeded, the kernel log is clean, the verdict came last
  N     failed: run gives the command's own status, test gives 1 or pytest's
  2     wrong arguments
  {verdict.EXIT_HOST}   this machine could not do its part: no kernel, no QEMU, the module does not build
  {verdict.EXIT_COMPLAINED}   the kernel complained (WARN, BUG, oops, bad page, ...), whatever the command returned
  {verdict.EXIT_LOST}   lost VM: it ended, or was ended, without a verdict
  {verdict.EXIT_TIMEOUT}   the command did not end within --timeout
A command can also return these numbers; --json distinguishes the two.
"""


def progress(text: str) -> None:
    """Write one line to standard error."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        return int(options.action(options))
    except VmError as error:
        progress(str(error))
        return verdict.EXIT_HOST
    except KeyboardInterrupt:
        return 130


def _kernels(options: argparse.Namespace) -> int:
    cache = store.cache_directory()
    for series in options.series or SERIES:
        if options.refresh and series != "debug":
            store.ensure(cache, series, progress, refresh=True)
        kernel = _kernel(series)
        print(f"{kernel.release}  image={kernel.image}  KDIR={kernel.build}")
    return 0


def _run(options: argparse.Namespace) -> int:
    kernel = _kernel(options.kernel)
    cwd = Path.cwd()
    script = machine.command_script(options.words, cwd, machine.guest_environment(_settings(options.env)))
    if options.module:
        script = suite.with_module(suite.build_module(cwd, kernel, progress), script)
    results = options.results or Path(tempfile.mkdtemp(prefix="mshare-vm-"))
    boot = machine.boot(
        _machine(options, kernel, options.timeout), script, _show(options.json), results.absolute(), progress
    )
    for line in report.as_lines(kernel.release, boot):
        progress(line)
    if options.results is None:
        if boot.attempts == 1 and boot.verdict.outcome in (verdict.Outcome.PASSED, verdict.Outcome.FAILED):
            shutil.rmtree(results)
        else:
            progress(f"console and kernel log: {results}")
    if options.json:
        print(json.dumps(report.as_object(kernel.release, boot), indent=2))
    return boot.verdict.exit_code


def _test(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("pytest") is None:
        raise HostToolMissing(f"pytest (for {sys.executable})", "python3-pytest, or pip install pytest into it")
    cwd = Path.cwd()
    if not (cwd / "tests" / "kernel").is_dir():
        raise VmError(f"there are no tests in {cwd / 'tests' / 'kernel'}; run from the repository's root")
    exit_code, objects = 0, []
    facts = {**_facts(cwd), "arguments": shlex.join(options.words)} if options.page else {}
    # Everything is fetched and built before the first boot, so that a compiler's error comes early.
    chosen = [_kernel(name) for name in options.kernel or SERIES[:1]]
    modules = [suite.build_module(cwd, kernel, progress) for kernel in chosen]
    spies = [suite.build_spy(cwd, kernel, progress) for kernel in chosen]
    for kernel, module, spy in zip(chosen, modules, spies, strict=True):
        results = suite.build_directory(cwd, kernel) / "test"
        shutil.rmtree(results, ignore_errors=True)
        junit = results / "junit.xml"
        environment = machine.guest_environment(
            {
                "MSHARE_NO_SKIPS": "1",
                "MSHARE_SPY_KO": str(spy),
                "PYTHONDONTWRITEBYTECODE": "1",
                **_settings(options.env),
            }
        )
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "tests/kernel",
            "-ra",
            "-p",
            "no:cacheprovider",
            f"--junitxml={junit}",
            "--basetemp=/tmp/mshare-guest",  # not below a directory that pytest on the host removes from
            "-o",
            f"timeout={PYTEST_TIMEOUT_SECONDS}",
        ]
        script = suite.with_module(
            module, machine.command_script([*pytest, *options.words], cwd, environment), name="pytest"
        )
        boot = machine.boot(_machine(options, kernel, options.timeout), script, _show(options.json), results, progress)
        found = suite.judge(boot.verdict, junit.read_bytes() if junit.is_file() else None)
        boot = boot._replace(verdict=found.verdict)
        for line in report.as_lines(kernel.release, boot, found.report):
            progress(line)
        objects.append(report.as_object(kernel.release, boot, found.report))
        if options.page:
            page.save(options.page, objects[-1], facts)
        exit_code = exit_code or boot.verdict.exit_code
    if options.json:
        print(json.dumps(objects, indent=2))
    return exit_code


def _facts(repository: Path) -> dict[str, str]:
    """Return the facts that a kept result needs: the source's commit, the day, and the machine."""
    told = {
        "commit": ["git", "-C", str(repository), "describe", "--always", "--dirty", "--exclude=*"],
        "qemu": ["qemu-system-x86_64", "--version"],
    }
    said = {}
    for name, command in told.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said[name] = done.stdout.partition("\n")[0].strip() or "unknown"
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    host = f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs"
    version = re.search(r"[0-9]+\.[0-9.]*[0-9]", said["qemu"])
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"commit": said["commit"], "date": day, "host": host, "qemu": f"QEMU {version[0] if version else 'unknown'}"}


def _lint(options: argparse.Namespace) -> int:
    cwd = Path.cwd()
    said = lint.checkpatch(lint.checkpatch_script(store.cache_directory(), progress), cwd)
    said += lint.sparse(cwd, _kernel(options.kernel))
    for line in said:
        print(line)
    progress(f"checkpatch and sparse: {len(lint.sources(cwd))} files, {len(said)} messages")
    return 1 if said else 0


def _shell(options: argparse.Namespace) -> int:
    kernel = _kernel(options.kernel)
    cwd = Path.cwd()
    has_source = (cwd / "kernel" / "Makefile").is_file()
    module = suite.build_module(cwd, kernel, progress) if has_source else None
    script = suite.shell_script(module, cwd, machine.guest_environment(_settings(options.env)))
    progress(f"booting {kernel.release}" + ("" if module else " without the module: there is no kernel/ here"))
    return machine.shell(_machine(options, kernel, 0), script)


def _selftest(options: argparse.Namespace) -> int:
    return selftest.check(_kernel(options.kernel), options.only, progress)


def _kernel(wanted: str) -> Kernel:
    cache = store.cache_directory()
    if wanted == "debug":
        store.ensure(cache, SERIES[0], progress)  # fetched for the kernel's busybox
        return store.from_directory(debug.ensure(cache, progress), cache)
    if "/" in wanted:
        return store.from_directory(Path(wanted), cache)
    return store.ensure(cache, wanted, progress)


def _machine(options: argparse.Namespace, kernel: Kernel, limit: int) -> machine.VirtualMachine:
    writable = (Path.cwd(), *(path.absolute() for path in options.rw))
    return machine.VirtualMachine(
        kernel,
        options.memory,
        options.cpus,
        limit,
        options.append,
        writable,
        options.cpu,
        options.accel,
        options.numa,
        options.icount,
    )


def _settings(words: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _show(quiet_stdout: bool) -> machine.Output:
    def show(stream: int, data: bytes) -> None:
        target = sys.stdout if stream == 1 and not quiet_stdout else sys.stderr
        target.buffer.write(data)
        target.buffer.flush()

    return show


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python3 -m vm", description=DESCRIPTION, epilog=EPILOG, formatter_class=style
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    kernels = commands.add_parser("kernels", help="fetch stock kernels (cached: no network) and say where they are")
    kernels.add_argument("series", nargs="*", help=f"series or release, default {' and '.join(SERIES)}")
    kernels.add_argument("--refresh", action="store_true", help="ask apt for a newer one even if one is cached")
    kernels.set_defaults(action=_kernels)

    guest = argparse.ArgumentParser(add_help=False)
    guest.add_argument("--memory", type=_memory, default="2G", help="the guest's memory (default %(default)s)")
    guest.add_argument("--cpus", type=_positive, default=2, help="virtual CPUs (default %(default)s)")
    guest.add_argument(
        "--numa", type=_positive, default=1, metavar="NODES", help="NUMA nodes that share memory and CPUs (default 1)"
    )
    guest.add_argument("--append", default="", metavar="ARGS", help="further kernel arguments")
    guest.add_argument("--rw", type=Path, action="append", default=[], metavar="DIR", help="also writable in the guest")
    guest.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="set in the command's environment"
    )
    guest.add_argument("--cpu", default=machine.CPU, help="QEMU's CPU model (default %(default)s)")
    guest.add_argument("--accel", default=machine.ACCEL, help="QEMU's accelerator (default %(default)s)")
    guest.add_argument(
        "--icount",
        action="store_true",
        help="let the guest's clocks count instructions, one per nanosecond (with --cpus 1); slower than without",
    )

    which = "series (6.12), release, debug, or a directory with boot/vmlinuz-* and lib/modules (default 6.12)"
    run = commands.add_parser("run", parents=[guest], help="run one command in a guest")
    run.add_argument("--kernel", default=SERIES[0], help=which)
    run.add_argument(
        "--timeout", type=_positive, default=600, metavar="SECONDS", help="for the command (default %(default)s)"
    )
    run.add_argument("--module", action="store_true", help="build mshare.ko, insert and mount it around the command")
    run.add_argument("--results", type=Path, metavar="DIR", help="keep console, kernel log and verdict there")
    run.add_argument("--json", action="store_true", help="result on standard output, all else on standard error")
    run.add_argument("words", nargs="+", metavar="CMD", help="after --: one shell line, or a program and its arguments")
    run.set_defaults(action=_run)

    test = commands.add_parser("test", parents=[guest], help="run tests/kernel in a guest, with the module")
    test.add_argument("--kernel", action="append", help=f"{which}; may be repeated")
    test.add_argument(
        "--timeout", type=_positive, default=1800, metavar="SECONDS", help="per kernel (default %(default)s)"
    )
    test.add_argument("--json", action="store_true", help="results on standard output, all else on standard error")
    test.add_argument("--page", type=Path, metavar="PREFIX", help="keep the results in PREFIX.json and PREFIX.md")
    test.add_argument("words", nargs="*", metavar="PYTEST_ARG", help="after --: further arguments for pytest")
    test.set_defaults(action=_test)

    shell = commands.add_parser(
        "shell", parents=[guest], help="a shell in a guest, with the module if kernel/ is there"
    )
    shell.add_argument("--kernel", default=SERIES[0], help=which)
    shell.set_defaults(action=_shell)

    checkers = commands.add_parser(
        "lint", help="run checkpatch and sparse on kernel/; exit status 1 if either says anything"
    )
    checkers.add_argument("--kernel", default=SERIES[0], help=f"what sparse compiles for: {which}")
    checkers.set_defaults(action=_lint)

    check = commands.add_parser("selftest", help="prove that each verdict is given when it must be")
    check.add_argument("--kernel", default=SERIES[0], help=which)
    check.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[*selftest.CASES, *selftest.DEBUG_CASES],
        help="this case; may be repeated",
    )
    check.set_defaults(action=_selftest)
    return parser


def _memory(text: str) -> str:
    try:
        machine.mebibytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
