"""`mshare run`: an unmodified program, on cheap page tables. May depend on: _console, _exits, _tools.preload,
scan.show, table, units, typer.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ..._core.units import format_size, parse_size
from ..preload import host, library, program
from ..preload.options import VARIABLE, Options
from ..table import Table, printable
from ._console import AsJson, print_fields, print_json, print_line, print_table
from ._exits import OK, UNAVAILABLE, UsageError

EXAMPLES = """
mshare run -- postgres -D /var/lib/data
mshare run --check -- postgres
mshare run --fill later --log /var/log/mshare.log -- php-fpm8.2
mshare run --environment --only postgres
sudo mshare run --status 4711
"""
CONTEXT = {"allow_interspersed_args": False}
"""Options after PROGRAM are the program's."""

PRELOAD = "LD_PRELOAD"


def command(
    words: Annotated[list[str] | None, typer.Argument(metavar="PROGRAM [ARGUMENT]...", show_default=False)] = None,
    backend: Annotated[
        Literal["auto", "msharefs", "thp"], typer.Option(help="Where shared anonymous memory lies.")
    ] = "auto",
    fill: Annotated[
        Literal["auto", "ahead", "later", "never"], typer.Option(help="When memory gets 2 MiB leaves.")
    ] = "auto",
    least: Annotated[str, typer.Option("--min", metavar="SIZE", help="Leave smaller mappings alone.")] = "32M",
    sysv: Annotated[Literal["thp", "off"], typer.Option(help="SysV shared memory.")] = "thp",
    posix: Annotated[Literal["thp", "off"], typer.Option(help="POSIX shared memory, memfds and tmpfs files.")] = "thp",
    hugetlb: Annotated[
        Literal["pass", "answer"], typer.Option(help="Serve requests for hugetlb pages that the kernel refuses.")
    ] = "pass",
    mprotect: Annotated[
        Literal["refuse", "ignore"], typer.Option(help="Changes of rights of memory on msharefs.")
    ] = "refuse",
    only: Annotated[str, typer.Option(metavar="NAME", help="Be active in programs of this name only.")] = "",
    require: Annotated[
        bool, typer.Option("--require", help="Fail a request for memory that cannot be had so.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append what happens to FILE, not to stderr.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while the program runs.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look at PROGRAM and the machine, start nothing.")] = False,
    environment: Annotated[
        bool, typer.Option("--environment", help="Print the variables for a unit or an environment file.")
    ] = False,
    pid: Annotated[
        int | None, typer.Option("--status", metavar="PID", min=1, help="Show what a process has been given.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Start a program on cheap page tables.

    The program is not modified. A small library is built once and preloaded. The library places shared memory of at
    least 32 MiB so that the kernel can map it with 2 MiB leaves. Shared anonymous memory lies on msharefs where the
    kernel module is loaded. PROGRAM replaces this process: process id, signals and exit status are the program's.

    Exit code 8 if the library would not work in PROGRAM or on this machine; docs/databases.md lists the cases.
    """
    if sum((check, environment, pid is not None)) > 1:
        raise UsageError("use only one of --check, --environment and --status")
    if pid is not None:
        return _show_status(pid, as_json)
    options = Options(
        backend=backend,
        fill=fill,
        min=parse_size(least),
        sysv=sysv,
        posix=posix,
        hugetlb=hugetlb,
        mprotect=mprotect,
        only=only,
        require="yes" if require else "no",
        log="" if log is None else str(log.absolute()),
        quiet="yes" if quiet else "no",
    )
    if environment:
        return _show_environment(options, as_json)
    if not words:
        raise UsageError("the program to start is missing: mshare run -- PROGRAM [ARGUMENT]...")
    found = program.inspect(words[0])
    if check:
        return _show_check(found, options, as_json)
    program.require(found)
    host.require(host.look(), options)
    if found.warning and not quiet:
        print(f"mshare: {printable(found.path)}: {printable(found.warning)}", file=sys.stderr)
    return _become(found, words, options)


def _become(found: program.Program, words: list[str], options: Options) -> NoReturn:
    """Replace this process by the program."""
    variables = _variables(options)
    for each in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and the program would inherit that
        signal.signal(each, signal.SIG_DFL)
    os.execve(found.path, words, {**_started_with(), **variables})


def _started_with() -> dict[str, str]:
    """Return the variables of this process, with LC_CTYPE as it was at the start. Python sets it where the locale is C
    (PEP 538), and `initdb` would choose another encoding by it."""
    environment = dict(os.environ)
    with suppress(OSError):  # no /proc
        for each in Path("/proc/self/environ").read_bytes().split(b"\0"):
            if each.startswith(b"LC_CTYPE="):
                return {**environment, "LC_CTYPE": os.fsdecode(each.partition(b"=")[2])}
        environment.pop("LC_CTYPE", None)
    return environment


def _variables(options: Options) -> dict[str, str]:
    """Return the variables that preload the library. The library is built if need be."""
    path = str(library.ensure())
    others = [each for each in os.environ.get(PRELOAD, "").replace(" ", ":").split(":") if each and each != path]
    return {PRELOAD: ":".join([path, *others]), VARIABLE: options.text()}


def _show_environment(options: Options, as_json: bool) -> int:
    path = str(library.ensure())
    variables = {PRELOAD: path, VARIABLE: options.text()}
    if as_json:
        print_json(variables)
    else:
        for name, value in variables.items():
            print(f"{name}='{value}'")
    return OK


def _show_check(found: program.Program, options: Options, as_json: bool) -> int:
    here = host.look()
    built = library.find()
    obstacle = found.obstacle
    try:
        host.require(here, options)
    except OSError as error:
        obstacle = obstacle or str(error)
    if as_json:
        print_json(
            {
                "program": asdict(found),
                "host": {**asdict(here), "huge_on_touch": here.huge_on_touch},
                "library": None if built is None else str(built),
                "variable": options.text(),
                "usable": not obstacle,
                "obstacle": obstacle,
            }
        )
    else:
        fields = [
            ("program", printable(found.path) + (f", a script for {found.interpreter}" if found.interpreter else "")),
            ("preloading", f"no: {obstacle}" if obstacle else "yes"),
            *([("warning", found.warning)] if found.warning else []),
            ("library", "not built yet: the first start builds it" if built is None else printable(str(built))),
            ("2 MiB leaves", f"no: {here.thp_obstacle}" if here.thp_obstacle else "yes"),
            ("shmem_enabled", here.shmem_enabled or "absent"),
            ("msharefs", f"no: {here.msharefs_obstacle}" if here.msharefs_obstacle else "yes"),
            ("memory to give", format_size(here.free_bytes)),
            ("anonymous memory", host.picks(here, options)),
        ]
        print_fields(fields)
    return UNAVAILABLE if obstacle else OK


def _show_status(pid: int, as_json: bool) -> int:
    from ..preload.status import status  # the machinery of `mshare scan`, which no start needs
    from ..scan.show import label

    found = status(pid)
    if as_json:
        print_json(
            {
                "pid": found.pid,
                "command": found.command,
                "library": found.library or None,
                "vmpte_bytes": found.vmpte_bytes,
                "mappings": [
                    {
                        "address": each.start,
                        "length_bytes": each.length,
                        "kind": each.object.kind,
                        "object": label(each.object),
                        "leaf_2m_bytes": each.leaf_bytes,
                        "page_4k_bytes": each.page_bytes,
                        "cheap": each.cheap,
                        "result": each.verdict,
                    }
                    for each in found.mappings
                ],
            }
        )
        return OK
    print_fields(
        [
            ("process", f"{found.pid} ({printable(found.command)})"),
            ("library", printable(found.library) if found.library else "not preloaded"),
            ("VmPTE", format_size(found.vmpte_bytes)),
        ]
    )
    if not found.mappings:
        print_line("This process maps no shared memory of 2 MiB or more.")
        return OK
    headers = ("ADDRESS", "SIZE", "2M LEAVES", "4K PAGES", "RESULT", "OBJECT")
    rows = [
        (
            f"{each.start:#x}",
            format_size(each.length),
            format_size(each.leaf_bytes),
            format_size(each.page_bytes),
            each.verdict,
            printable(label(each.object)),
        )
        for each in found.mappings
    ]
    print_table(Table(headers, tuple(rows), right=frozenset({1, 2, 3}), fold=4))
    return OK
