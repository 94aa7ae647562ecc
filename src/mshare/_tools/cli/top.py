"""`mshare top`: who pays for page tables, live. May depend on: _console, _extras, _snapshots, _tools.scan, _tools.top,
collect, units, typer."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from ..._core.units import parse_size
from ..collect import Choice, collect
from ..scan.show import survey_json, table
from ..scan.survey import survey
from ..top.rows import Reading, heading
from ._console import AsJson, not_nan, print_line, print_table
from ._extras import extra
from ._snapshots import User, region_names, uid_of

EXAMPLES = """
mshare top
sudo mshare top --interval 10
mshare top --json --count 60 > minutes.jsonl
"""


def command(
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.5, max=3600, callback=not_nan, help="Read this often. 0.5 to 3600."),
    ] = 5,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N readings.", show_default=False)
    ] = None,
    user: User = None,
    least: Annotated[
        str, typer.Option("--min", metavar="SIZE", help="Hide objects with less page-table memory than SIZE.")
    ] = "64K",
    as_json: AsJson = False,
) -> None:
    """Show who pays for page tables, live.

    top repeats the table of mshare scan without --exact. The last line shows the keys. If input or output is not a
    terminal, top prints tables, and with --json one document per line. Needs the extra `top` on a terminal.
    """
    least_bytes = parse_size(least)
    choice = Choice(uid=None if user is None else uid_of(user))

    def read() -> Reading:
        snapshot = collect(choice=choice, regions=region_names())
        return Reading(snapshot, survey(snapshot))

    if as_json:
        _repeat(read, lambda found: print(json.dumps(survey_json(*found, least=least_bytes))), interval, count)
    elif all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):  # textual writes to stderr
        with extra("top"):
            from ..top.app import TopApp
        app = TopApp(read, interval_s=interval, least=least_bytes, count=count)
        code = app.run()
        raise typer.Exit(app.return_code or 0 if code is None else code)
    else:
        _repeat(read, lambda found: _print(found, least_bytes), interval, count)


def _repeat(read: Callable[[], Reading], show: Callable[[Reading], None], interval_s: float, count: int | None) -> None:
    for number in itertools.count(1):
        start = time.monotonic()
        show(read())
        sys.stdout.flush()
        if number == count:
            return
        took = time.monotonic() - start
        time.sleep(max(interval_s - took, took))


def _print(found: Reading, least: int) -> None:
    print_line(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.snapshot.taken))}  {heading(found)}")
    print_table(table(found.survey, least=least))
    print_line("")
