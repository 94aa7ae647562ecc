"""`mshare plan`: what page tables will cost. May depend on: _console, _tools.plan, backends, units, typer."""

from __future__ import annotations

from typing import Annotated

import typer

from ..._core import backends
from ..._core.units import format_size, parse_size
from ..plan import plan, plan_json, plan_notes, plan_table
from ._console import AsJson, print_json, print_line, print_table

EXAMPLES = """
mshare plan 300G 1500
mshare plan 64G 200 --json
"""


def command(
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The region's size: 512M, 300G.", show_default=False)],
    processes: Annotated[
        int, typer.Argument(metavar="PROCESSES", help="The number of processes that attach it.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Compute what the page tables will cost.

    The table has the costs of SIZE mapped by PROCESSES, for each backend.
    All figures are arithmetic: nothing is created or measured, and no backend need be usable here.
    """
    found = plan(parse_size(size), processes, reversed(backends.ALL))
    if as_json:
        print_json(plan_json(found))
        return
    print_line(f"page tables of {format_size(found.size)} mapped by {found.processes} processes")
    print_line("")
    print_table(plan_table(found))
    print_line("")
    for note in plan_notes(found):
        print_line(note)
