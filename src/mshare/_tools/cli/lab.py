"""`mshare lab`: the proposal's server, made smaller, on this machine. May depend on: _console, _exits, _extras,
_files, _progress, _tools.lab, table, backends, units, geometry, matplotlib, typer."""

from __future__ import annotations

import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from ..._core import backends
from ..._core.geometry import PAGE, PMD
from ..._core.units import format_size, parse_size
from ..lab import limit, picture, scale, sga, show
from ..lab.mechanisms import MECHANISMS
from ..lab.run import Run
from ..table import printable
from ._console import AsJson, print_json, print_line, print_table
from ._exits import FAILED, OK, UsageError
from ._extras import extra
from ._files import write
from ._progress import steps

EXAMPLES = """
mshare lab sga
mshare lab sga --factor 512 --mechanisms plain,thp
mshare lab sga --picture sga.svg --json
"""

DEFAULT_MECHANISMS = ",".join(each.name for each in MECHANISMS.values() if each.usual)
_SPARSE = ", ".join(each.name for each in reversed(backends.ALL) if each.capabilities.sparse)

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

HELP = "Run an experiment: how many processes there is memory for."


def sga_server(
    *,
    factor: Annotated[
        int, typer.Option(min=1, max=scale.MOST, metavar="N", help="Divide the sizes of the proposal's server by N.")
    ] = 128,
    mechanisms: Annotated[
        str, typer.Option(metavar="MECHANISM,...", help=f"Of {', '.join(MECHANISMS)}; one after the other.")
    ] = DEFAULT_MECHANISMS,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Instead of 512 GiB / N.")] = None,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="Shared, instead of 300 GiB / N.")] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Instead of 1,500 (132,000 / N above a factor of 128).")
    ] = None,
    sparse: Annotated[bool, typer.Option("--sparse", help=f"One page of every 2 MiB only; {_SPARSE}.")] = False,
    whole_machine: Annotated[
        bool, typer.Option("--whole-machine", help="Let this machine run out of memory: for virtual machines.")
    ] = False,
    drawn: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Write an SVG; needs the extra `report`.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Rebuild the server that ran out of memory.

    On that server 1,500 clients share 300 GiB of 512 GiB. The lab divides all sizes by a factor. Clients attach the
    region and read all of it until all are there or the kernel kills one for lack of memory. The region's creator is
    then killed. All this happens in a private memory control group, and no process outside the group is killed. Needs
    root.
    """
    full = scale.server(factor)
    load = sga.Load(
        full.region_bytes if size is None else parse_size(size),
        full.clients if clients is None else clients,
        PMD if sparse else PAGE,
    )
    chosen = mechanisms.split(",")
    for mechanism in chosen:
        if mechanism not in MECHANISMS:
            raise UsageError(f"unknown mechanism {printable(mechanism)!r}: use {', '.join(MECHANISMS)}")
    if drawn is not None:
        with extra("report"):
            import matplotlib  # noqa: F401
    limited = full.memory_bytes if memory is None else parse_size(memory)
    # A run that is ended must also end its processes, its region and its control group: `finally` clauses do so.
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    runs = []
    with steps() as tell:
        for mechanism in chosen:
            with _limit(limited, whole_machine=whole_machine) as under:
                runs.append(sga.conduct(mechanism, load, under, tell))
    if as_json:
        print_json({"factor": factor, "runs": [run.as_json() for run in runs]})
    else:
        _show(runs, load.clients)
    if drawn is not None:
        svg = picture.draw(runs, title=f"{format_size(load.size_bytes)} shared by {load.clients:,} processes")
        if svg is not None:
            write(str(drawn), svg)
    return FAILED if any(run.failure for run in runs) else OK


def _end(number: int, _: object) -> None:
    """End the run by an exception, once: a later signal, perhaps to all of a group, must not end the clean-up."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _limit(limit_bytes: int, *, whole_machine: bool) -> AbstractContextManager[limit.Limit]:
    return limit.whole_machine() if whole_machine else limit.control_group(limit_bytes)


def _show(runs: list[Run], clients: int) -> None:
    print_table(show.memory_table(runs, clients))
    print_line("")
    print_table(show.client_table(runs))
    print_line("")
    for note in show.notes(runs):
        print_line(note)
    for run in runs:
        if run.oom_log:
            print_line("")
            print_line(f"{run.label}: what the kernel said")
            for each in run.oom_log:
                print_line(f"  {printable(each)}")


SUBCOMMANDS = {"sga": sga_server}
