"""`mshare collapse`: 2 MiB pages for programs that run. May depend on: _console, _exits, _progress, _snapshots,
_tools.collapse, _tools.scan, collect, table, errors, units, geometry, linux,
typer."""

from __future__ import annotations

import errno
import itertools
import json
import sys
import time
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from ..._core.errors import BackendUnavailableError
from ..._core.geometry import PMD
from ..._core.linux import libc
from ..._core.units import parse_age
from ..collapse import plan, work
from ..collapse.follow import Follower, Watched
from ..collapse.probe import one_call_is_enough
from ..collapse.room import free_blocks
from ..collapse.show import Prospect, Result, prospect_fields, prospect_json, result_fields, result_json, summary
from ..collapse.tally import Counts, Done, Threshold, count
from ..collapse.target import opened
from ..collect import collect
from ..scan.snapshot import Snapshot
from ..scan.survey import survey
from ..table import printable
from ._console import AsJson, print_fields, print_json, print_line
from ._exits import FAILED, INTERRUPTED, NO_SPACE, NOT_FOUND, OK, UNAVAILABLE, UsageError
from ._progress import Step, bars
from ._snapshots import region_names

EXAMPLES = """
sudo mshare collapse --command postgres --dry-run
sudo mshare collapse --command postgres --max-cpu 25
sudo mshare collapse /dev/shm/cache --yes
sudo mshare collapse --command postgres --follow
mshare collapse --unit
"""

_ONCE, _FOLLOWING = 50.0, 10.0
_SPARE_PERCENT = 1.0
"""Percent of the time in which the work goes on. With 40 clients of PostgreSQL that kept both of two cores busy, 25 %
took a fifth of the transactions while it lasted, and 100 % a quarter to nine tenths."""


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[OBJECT]", help="The object's name in mshare scan, path or inode.", show_default=False),
    ] = None,
    pids: Annotated[
        list[int] | None,
        typer.Option("--pid", metavar="PID", help="Choose the objects that this process maps (repeatable)."),
    ] = None,
    commands: Annotated[
        list[str] | None,
        typer.Option(
            "--command", metavar="NAME", help="Choose the objects that processes of this name map (repeatable)."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Act without a question on a terminal.")] = False,
    warm: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="Collapse blocks of which this part is in memory, and no others.  [default: 50]",
        ),
    ] = None,
    max_cpu: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", min=0.1, max=100, help=f"Work this part of the time: {_ONCE:g}, --follow {_FOLLOWING:g}."
        ),
    ] = None,
    max_stall: Annotated[
        str | None, typer.Option(metavar="TIME", help="End the work when a block takes longer, such as 0.1s.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Continue, and collapse blocks that become warm.")] = False,
    every: Annotated[
        str, typer.Option(metavar="TIME", help="With --follow: the time from one look to the next.")
    ] = "30s",
    rounds: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="With --follow: end after N looks.")
    ] = None,
    max_pressure: Annotated[
        float,
        typer.Option(
            metavar="PERCENT", min=0, max=100, help="With --follow: wait while memory pressure (PSI, avg10) is higher."
        ),
    ] = 5,
    unit: Annotated[bool, typer.Option("--unit", help="Print a systemd unit for --follow.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make 2 MiB pages of shared memory in use.

    Programs that already run get smaller page tables, without a restart: the kernel gathers each block of 2 MiB into
    one page (MADV_COLLAPSE), and all processes that map the object give up their page tables for the block. Needs Linux
    6.1, root, and mappings at aligned addresses. Where one of these is missing, the command says what to do.

    Empty blocks are left alone. Blocks of which less than half is in memory are collapsed only if all of them together
    add at most 1 % to the object's memory. With --follow or --warm they are left alone.
    """
    if unit:
        print(_unit(), end="")
        return OK
    if name is None and not pids and not commands:
        raise UsageError("say what to collapse: an OBJECT, --pid PID or --command NAME")
    if follow and dry_run:
        raise UsageError("--follow acts, and --dry-run does not: say one of them")
    threshold = Threshold(spare_percent=0 if follow else _SPARE_PERCENT) if warm is None else Threshold(warm)
    if max_cpu is None:
        max_cpu = _FOLLOWING if follow else _ONCE
    pace = work.Pace(max_cpu, None if max_stall is None else parse_age(max_stall))
    if not libc.has_collapse():
        raise BackendUnavailableError("this kernel has no MADV_COLLAPSE", "use Linux 6.1 or newer")
    if follow:
        watched = Watched(frozenset(pids or ()), frozenset(map(_kernels_name, commands or ())), name)
        return _follow(Follower(watched, pace, threshold, max_pressure), parse_age(every), rounds, as_json=as_json)
    return _once(_chosen(name, pids, commands), pace, threshold, dry_run=dry_run, ask=not yes, as_json=as_json)


def _once(
    chosen: list[plan.Candidate], pace: work.Pace, threshold: Threshold, *, dry_run: bool, ask: bool, as_json: bool
) -> int:
    """Show, ask, work and show again. Return the exit code."""
    prospects = [_prospect(each, threshold) for each in chosen]
    if not as_json:
        for each in prospects:
            print_fields(prospect_fields(each, pace.max_cpu))
            print_line("")
    to_do = [each for each in prospects if each.counts is not None and _worth_it(each.counts)]
    if dry_run or not to_do:
        if as_json:
            print_json(_document(prospects, [], dry_run=dry_run))
        elif not dry_run:
            print_line("nothing to collapse")
        return OK if dry_run or any(each.counts is not None for each in prospects) else UNAVAILABLE
    if ask and not as_json and sys.stdin.isatty() and sys.stderr.isatty():
        sys.stdout.flush()
        typer.confirm("Collapse the warm blocks?", abort=True, err=True)
    results, code = _work(to_do, pace, threshold)
    if as_json:
        print_json(_document(prospects, results, dry_run=False))
    else:
        for result in results:
            print_fields(result_fields(result))
            print_line("")
    return code


def _chosen(name: str | None, pids: list[int] | None, commands: list[str] | None) -> list[plan.Candidate]:
    """Return the objects that the command line means. Raises if there are none."""
    snapshot = collect(regions=region_names())
    found = plan.candidates(snapshot, survey(snapshot), _users(snapshot, pids, commands))
    if name is None:
        those = [each for each in found if each.mappings]
        if not those:
            raise FileNotFoundError(
                errno.ENOENT, "the chosen processes map no object of 2 MiB or more that others can share"
            )
        return those
    those = list(plan.named(found, name))
    if not those:
        raise FileNotFoundError(
            errno.ENOENT, f"no process that can be read maps an object {printable(name)!r} shared (mshare scan)"
        )
    if len(those) > 1:
        names = ", ".join(printable(f"{each.name} (inode {each.thing.ino})") for each in those)
        raise UsageError(f"{printable(name)!r} can mean several objects: {names}; choose with --pid or --command")
    return those


def _worth_it(counts: Counts) -> bool:
    """Tell whether there is something to do: warm blocks, or page tables that a kernel may have left to others."""
    return counts.warm > 0 or (counts.huge > 0 and not one_call_is_enough())


def _kernels_name(command: str) -> str:
    """Return a command as the kernel keeps it: 15 bytes."""
    return command.encode("utf-8", "surrogateescape")[:15].decode("utf-8", "surrogateescape")


def _users(snapshot: Snapshot, pids: list[int] | None, commands: list[str] | None) -> frozenset[int] | None:
    """Return the chosen processes, None if none were chosen."""
    if not pids and not commands:
        return None
    by_pid = {each.pid: each for each in snapshot.processes}
    names = {_kernels_name(each): each for each in commands or ()}
    for pid in pids or ():
        if pid not in by_pid:
            raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}")
    there = {each.command for each in snapshot.processes}
    for name, written in names.items():
        if name not in there:
            raise ProcessLookupError(errno.ESRCH, f"there is no process with the name {printable(written)!r}")
    chosen = frozenset(pids or ()) | {each.pid for each in snapshot.processes if each.command in names}
    closed = [pid for pid in chosen if by_pid[pid].areas is None]
    if len(closed) == len(chosen):
        raise PermissionError(errno.EACCES, f"the mappings of process {min(closed)} are closed to you: run it as root")
    return chosen


def _prospect(candidate: plan.Candidate, threshold: Threshold) -> Prospect:
    if candidate.refusal is not None:
        return Prospect(candidate, None, free_blocks())
    with opened(candidate) as target:
        return Prospect(candidate, count(target.blocks(), threshold, candidate.reachable), free_blocks())


def _work(prospects: list[Prospect], pace: work.Pace, threshold: Threshold) -> tuple[list[Result], int]:
    """Collapse one object after the other. Return what was done, and the exit code."""
    results: list[Result] = []
    code = OK
    with bars(*(printable(each.candidate.name) for each in prospects)) as steps:
        for prospect, step in zip(prospects, steps, strict=True):
            done, before = Done(), work.vmpte(prospect.candidate.usage.by_process)
            counts = work.run(prospect.candidate, pace, threshold, done, partial(_blocks, step))
            results.append(Result(prospect, done, counts, before, work.vmpte(before)))
            if done.stopped:
                code = code or _code(done)
            if done.interrupted or done.shortage is not None:
                break
    return results, code


def _blocks(step: Step, done: int, every: int) -> None:
    step(done * PMD, every * PMD)


def _code(done: Done) -> int:
    if done.interrupted:
        return INTERRUPTED
    return NOT_FOUND if done.gone else NO_SPACE if done.shortage is not None else FAILED


def _document(prospects: list[Prospect], results: list[Result], *, dry_run: bool) -> dict[str, Any]:
    done = {id(each.prospect): result_json(each) for each in results}
    return {
        "dry_run": dry_run,
        "objects": [{**prospect_json(each), "result": done.get(id(each))} for each in prospects],
    }


def _follow(follower: Follower, every_s: float, rounds: int | None, *, as_json: bool) -> int:
    """Look again and again, and print a line for each object that something was done to, or that something is in the
    way of."""

    def tell(name: str, sentence: str) -> None:
        _log(f"{printable(name)}: {printable(sentence)}", {"object": name, "remark": sentence}, as_json=as_json)

    for number in itertools.count(1):
        start = time.monotonic()
        for result in follower.round(region_names(), tell):
            _log(
                summary(result),
                {**prospect_json(result.prospect), "result": result_json(result)},
                as_json=as_json,
            )
            if result.done.interrupted:
                return INTERRUPTED
        if number == rounds:
            return OK
        time.sleep(max(0.0, start + every_s - time.monotonic()))
    return OK


def _log(line: str, found: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps({"time": time.time(), **found}) if as_json else f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}")
    sys.stdout.flush()


def _unit() -> str:
    """Return the text of the systemd unit, with the path of the command `mshare` beside this Python if there is one."""
    text = (files("mshare") / "_tools/collapse/mshare-collapse@.service").read_text()
    beside = Path(sys.executable).with_name("mshare")
    return text.replace("/usr/bin/mshare ", f"{beside} ") if beside.exists() else text
