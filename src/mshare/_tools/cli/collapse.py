"""`mshare collapse`: 2 MiB pages for programs that run. May depend on: _console, _exits, _progress, _snapshots,
_tools.collapse, _tools.scan, collect, table, errors, units, linux, typer."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ..._core.errors import BackendUnavailableError
from ..._core.linux import libc
from ..._core.units import parse_age
from ..collapse import plan, work
from ..collapse.room import free_blocks
from ..collapse.show import Prospect, Result, prospect_fields, prospect_json, result_fields, result_json
from ..collapse.tally import Done, count, is_warm
from ..collapse.target import opened
from ..collect import collect
from ..scan.snapshot import Snapshot
from ..scan.survey import survey
from ..table import printable
from ._console import AsJson, print_fields, print_json, print_line
from ._exits import FAILED, INTERRUPTED, NO_SPACE, NOT_FOUND, OK, UNAVAILABLE, UsageError
from ._progress import bars
from ._snapshots import region_names

EXAMPLES = """
sudo mshare collapse --command postgres --dry-run
sudo mshare collapse --command postgres --max-cpu 25
sudo mshare collapse --pid 4711 --yes
sudo mshare collapse /dev/shm/cache
"""


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[OBJECT]", help="As mshare scan shows it, its path, or its inode.", show_default=False),
    ] = None,
    pids: Annotated[
        list[int] | None, typer.Option("--pid", metavar="PID", help="What this process maps (repeatable).")
    ] = None,
    commands: Annotated[
        list[str] | None,
        typer.Option("--command", metavar="NAME", help="What processes of this name map (repeatable)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")] = False,
    warm: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, max=100, help="Collapse blocks with so many pages in memory.")
    ] = 50,
    max_cpu: Annotated[
        float, typer.Option("--max-cpu", metavar="PERCENT", min=0.1, max=100, help="Work that much of the time.")
    ] = 100,
    max_stall: Annotated[
        str | None,
        typer.Option("--max-stall", metavar="TIME", help="Stop if a block takes longer, such as 0.1s."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make 2 MiB pages of shared memory in use.

    Programs that already run get smaller page tables, without a restart: the kernel gathers each block of 2 MiB into
    one page (MADV_COLLAPSE), and all processes that map the object give up their page tables for the block. Needs Linux
    6.1 and root, and mappings at aligned addresses; says what to do where they are not. Blocks that are empty or little
    used are left alone.
    """
    if name is None and not pids and not commands:
        raise UsageError("say what to collapse: an OBJECT, --pid PID or --command NAME")
    pace = work.Pace(max_cpu, None if max_stall is None else parse_age(max_stall))
    if not libc.has_collapse():
        raise BackendUnavailableError("this kernel has no MADV_COLLAPSE", "use Linux 6.1 or newer")
    found = list(_chosen(name, pids, commands))
    prospects = [_prospect(each, warm) for each in found]
    if not as_json:
        for each in prospects:
            print_fields(prospect_fields(each))
            print_line("")
    work_to_do = [each for each in prospects if each.counts is not None and each.counts.warm]
    if dry_run or not work_to_do:
        if as_json:
            print_json(_document(prospects, [], dry_run=dry_run))
        elif not dry_run:
            print_line("nothing to collapse")
        return OK if dry_run or any(each.counts is not None for each in prospects) else UNAVAILABLE
    if not yes and not as_json and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm("Collapse the warm blocks?", abort=True, err=True)
    results, code = _work(work_to_do, pace, warm)
    if as_json:
        print_json(_document(prospects, results, dry_run=False))
    else:
        for result in results:
            print_fields(result_fields(result))
            print_line("")
    return code


def _chosen(name: str | None, pids: list[int] | None, commands: list[str] | None) -> Iterator[plan.Candidate]:
    """Yield the objects that the command line means. Raises if there are none."""
    snapshot = collect(regions=region_names())
    users = _users(snapshot, pids, commands)
    found = plan.candidates(snapshot, survey(snapshot), users)
    if name is not None:
        those = list(plan.named(found, name))
        if not those:
            raise FileNotFoundError(
                errno.ENOENT, f"no process that can be read maps an object {printable(name)!r} shared (mshare scan)"
            )
        if len(those) > 1:
            names = ", ".join(printable(f"{each.name} (inode {each.thing.ino})") for each in those)
            raise UsageError(f"{printable(name)!r} can mean several objects: {names}; choose with --pid or --command")
        yield from those
        return
    those = [each for each in found if each.mappings]
    if not those:
        raise FileNotFoundError(
            errno.ENOENT, "the chosen processes map no object of 2 MiB or more that others can share"
        )
    yield from those


def _users(snapshot: Snapshot, pids: list[int] | None, commands: list[str] | None) -> frozenset[int] | None:
    """Return the chosen processes, None if none were chosen."""
    if not pids and not commands:
        return None
    by_pid = {each.pid: each for each in snapshot.processes}
    names = [each.encode("utf-8", "surrogateescape")[:15].decode("utf-8", "surrogateescape") for each in commands or ()]
    for pid in pids or ():
        if pid not in by_pid:
            raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}")
    for each, written in zip(names, commands or (), strict=True):
        if not any(process.command == each for process in snapshot.processes):
            raise ProcessLookupError(errno.ESRCH, f"there is no process with the name {printable(written)!r}")
    chosen = frozenset(pids or ()) | {each.pid for each in snapshot.processes if each.command in names}
    closed = [pid for pid in chosen if by_pid[pid].areas is None]
    if len(closed) == len(chosen):
        raise PermissionError(errno.EACCES, f"the mappings of process {min(closed)} are closed to you: run it as root")
    return chosen


def _prospect(candidate: plan.Candidate, warm: float) -> Prospect:
    if candidate.refusal is not None:
        return Prospect(candidate, None, free_blocks())
    with opened(candidate) as target:
        return Prospect(candidate, count(target.blocks(), warm), free_blocks())


def _work(prospects: list[Prospect], pace: work.Pace, warm: float) -> tuple[list[Result], int]:
    """Collapse one object after the other. Return what was done, and the exit code."""
    results: list[Result] = []
    code = OK
    with bars(*(printable(each.candidate.name) for each in prospects)) as steps:
        for prospect, step in zip(prospects, steps, strict=True):
            pids = prospect.candidate.usage.by_process
            before, done = work.vmpte(pids), Done()
            counts = None
            try:
                with opened(prospect.candidate) as target:
                    try:
                        warm_blocks = [each.number for each in target.blocks() if is_warm(each, warm)]
                        work.collapse(target, warm_blocks, pace, done, step)
                    except KeyboardInterrupt:
                        done.stopped, code = "interrupted", INTERRUPTED
                    if not done.gone:
                        counts = count(target.blocks(), warm)
            except ProcessLookupError:
                done.gone, done.stopped = True, "no process maps the object any more"
            results.append(Result(prospect, done, counts, before, work.vmpte(before)))
            if done.stopped:
                code = code or (NOT_FOUND if done.gone else NO_SPACE if done.shortage else FAILED)
            if code == INTERRUPTED or done.shortage is not None:
                break
    return results, code


def _document(prospects: list[Prospect], results: list[Result], *, dry_run: bool) -> dict[str, Any]:
    done = {id(each.prospect): result_json(each) for each in results}
    return {
        "dry_run": dry_run,
        "objects": [{**prospect_json(each), "result": done.get(id(each))} for each in prospects],
    }
