"""PostgreSQL's own regression tests, on a server that `mshare run` has started: `make test-postgres-regress`.

The tests come from Debian's source package of the installed server (`regress_source`). pg_regress runs its whole
parallel schedule three times, each time on a new server: without the library as the reference, then with shared
anonymous memory and with SysV memory under the library. All memory is filled ahead, so that all of it has 2 MiB leaves
from the first test on. The server and pg_regress run as an unprivileged user.

A test that also fails in the reference is listed, and is not a failure of the library.

May depend on: cluster, leaves, postgres_servers, regress_source, regress_summary, vm.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vm.errors import VmError

from . import leaves, postgres_servers, regress_source, regress_summary
from .cluster import Cluster, binaries
from .regress_summary import FAILED, Comparison

KINDS = ("mmap", "sysv")
_LIBRARY = ("--backend", "thp", "--fill", "ahead")
_SETTINGS = {
    "shared_buffers": "128MB",
    "huge_pages": "off",
    "max_connections": "100",
    "max_prepared_transactions": "2",
}
"""The schedule opens up to 20 connections at a time. Two prepared transactions are pg_regress's own setting."""
_STEP = 20
_DESCRIPTION = """\
Run PostgreSQL's own regression tests on a new server without the library, then on servers under mshare run. The first
call fetches the source package of the installed server with private directories of apt, 65 MB with the package lists.

exit status: 0 if no test fails only under mshare run, 1 if one does, 2 if the tests cannot be run
"""
_EXAMPLE = """\
example:
  $ python -m benchmarks.regress --kind mmap
  regress: without the library, mmap: 217 of 217 (64 s)
  regress: mshare run, mmap: 217 of 217 (41 s)
  regress: passed: no test fails only under mshare run
"""


def say(text: str) -> None:
    print(f"regress: {text}", flush=True)


def run(suite: Path, tests: Sequence[str], kind: str, library: bool, output: Path) -> dict[str, str]:
    """Run the schedule on a new server and return the result of each test.

    - `suite`: the directory of the tests, as `regress_source.ensure` returns it.
    - `kind`: the server's `shared_memory_type`.
    - `output`: the directory for the logs; regression.diffs is there if a test failed.

    Raises `ChildProcessError` if the server does not start, or if the library has no effect on its memory.
    """
    dynamic = "sysv" if kind == "sysv" else "posix"
    settings = {**_SETTINGS, "shared_memory_type": kind, "dynamic_shared_memory_type": dynamic}
    with Cluster(settings, postgres_servers.variables(_LIBRARY) if library else {}) as server:
        log = server.directory / "log"
        try:
            if library:
                say(_taken_over(server))
            return _regress(server, suite, tests)
        finally:
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            for path in (log, *(server.directory / "regress").glob("regression.*")):
                shutil.copy(path, output)


def _taken_over(server: Cluster) -> str:
    """Return what the library says about the server's memory. Raises `ChildProcessError` if not all of it has 2 MiB
    leaves: by the library's own words, and as root also by the kernel's."""
    line = postgres_servers.said(server)
    blocks = re.search(r"\((\d+) of (\d+) blocks\)", line)
    found = leaves.leaves(server.pid)
    pages = None if found is None else found.huge
    if not blocks or blocks[1] != blocks[2] or (pages is not None and pages < int(blocks[1])):
        raise ChildProcessError(f"not all of the server's memory has 2 MiB leaves ({pages} in the kernel): {line}")
    return line


def _regress(server: Cluster, suite: Path, tests: Sequence[str]) -> dict[str, str]:
    place = server.directory / "regress"  # The server's user cannot read the cache of root.
    shutil.copytree(suite, place)
    library = binaries().parent / "lib"
    for name in ("autoinc.so", "refint.so"):  # pg_regress looks for all libraries in one directory.
        (place / name).symlink_to(library / name)
    _give(place, server.directory)
    driver = library / "pgxs" / "src" / "test" / "regress" / "pg_regress"
    options = {
        "bindir": binaries(),
        "dlpath": place,
        "inputdir": place,
        "outputdir": place,
        "schedule": place / "parallel_schedule",
        "host": server.directory,
        "user": "postgres",
        "encoding": "UTF8",
    }
    command = [str(driver), "--no-locale", *(f"--{name}={value}" for name, value in options.items())]
    results: dict[str, str] = {}
    running = server.popen(command)
    assert running.stdout is not None
    last = ""
    try:
        for line in running.stdout:
            last = line.strip() or last
            found = regress_summary.outcome(line)
            if found is None:
                continue
            results[found[0]] = found[1]
            if found[1] == FAILED:
                say(f"  {found[0]} failed")
            if len(results) % _STEP == 0:
                say(f"  {len(results)} of {len(tests)} done")
    finally:
        running.kill()
        running.wait()
    if len(results) < len(tests):
        say(f"pg_regress ended early: {last}")
    return results


def _give(place: Path, example: Path) -> None:
    """Give a directory with all that lies in it to the owner of `example`."""
    owner = example.stat()
    for path in (place, *place.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _one(
    suite: Path, kind: str, library: bool, output: Path, reference: dict[str, str] | None
) -> tuple[Comparison, dict[str, str]]:
    tests = regress_summary.scheduled((suite / "parallel_schedule").read_text())
    name = f"{'mshare run' if library else 'without the library'}, {kind}"
    place = output / name.replace(", ", "-").replace(" ", "-")
    began = time.monotonic()
    results = run(suite, tests, kind, library, place)
    found = regress_summary.compare(tests, results, reference)
    say(f"{name}: {found} ({time.monotonic() - began:.0f} s)")
    if found.passed < found.total:
        diffs = place / "regression.diffs"
        say(f"  see {diffs if diffs.exists() else place / 'log'}")
    return found, results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regress",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="one kind of shared memory (default: all)")
    parser.add_argument(
        "--output", type=Path, default=Path("build/regress"), help="directory for the logs (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        server = regress_source.installed(binaries())
        say(f"PostgreSQL {server.version}, tests of {server.source} {server.source_version}")
        suite = regress_source.ensure(server, say)
        output = options.output.absolute()
        plain, reference = _one(suite, "mmap", False, output, None)
        if plain.missing:
            say("the reference is not complete, so there is nothing to compare with")
            return 2
        runs = [_one(suite, kind, True, output, reference)[0] for kind in options.kind or KINDS]
    except (OSError, VmError, subprocess.CalledProcessError) as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2
    good = all(each.good for each in runs)
    say(f"{'passed' if good else 'failed'}: {'no' if good else 'a'} test fails only under mshare run")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
