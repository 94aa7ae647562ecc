"""`mshare demo`: the main job on real data, and what it costs. May depend on: _console, _progress, _tools.demo, units,
typer."""

from __future__ import annotations

from typing import Annotated

import typer

from ..._core.units import parse_size
from ..demo import main as _main
from ..demo import show
from ._console import AsJson, print_json, print_line, print_table
from ._progress import steps

EXAMPLES = """
mshare demo
mshare demo --size 2G --processes 64
mshare demo --size 16M --no-projection --json
"""


def command(
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The region's size. Default: 512M, or less where that does not fit."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Workers.")] = _main.DEFAULT_PROCESSES,
    table: Annotated[bool, typer.Option(help="Measure the page tables.")] = True,
    projection: Annotated[bool, typer.Option(help="Measure what one more GiB costs, on 2 GiB of memory.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show all of it on real data, without root.

    The demo repeats all flights of 2013 from New York until they fill a region. Many processes compute on the region
    while its loader is killed. The demo then measures what page tables cost here. It needs the extra `demo`, and leaves
    nothing behind.
    """
    with steps() as tell:
        result = _main.demonstrate(
            None if size is None else parse_size(size),
            processes,
            measured=table,
            projected=projection,
            tell=tell,
        )
    if as_json:
        print_json(result.as_json())
        return
    for line in show.lines(result):
        print_line(line)
    if result.bill is not None:
        print_line("")
        print_line(show.title(result.bill), style="bold")
        print_table(show.table(result.bill))
        print_line("")
        for note in show.footnotes(result.bill):
            print_line(note)
