"""`mshare doctor`: the abilities of this machine, and useful changes. May depend on: _console, _exits, findings,
machine, table, units, rich, typer."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..._core.units import parse_size
from .. import machine
from ..findings import PROBLEM, Finding, findings, findings_json
from ..table import printable
from ._console import LEAST_TEXT, AsJson, console, print_json, print_trimmed
from ._exits import OK, UNAVAILABLE

EXAMPLES = """
mshare doctor
mshare doctor --size 300G
mshare doctor --json | jq -r '.findings[].command | select(.)'
"""

_STYLES = {"ok": "green", "advice": "yellow", PROBLEM: "bold red"}


def _print_finding(finding: Finding) -> None:
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(width=7)
    row.add_column(width=16, overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(
        Text(finding.level, style=_STYLES[finding.level]), Text(printable(finding.topic)), Text(printable(finding.text))
    )
    print_trimmed(row, 7 + 1 + 16 + 1 + LEAST_TEXT)
    if finding.command:  # never folded: it is there to be copied
        console().print(Text(f"        $ {printable(finding.command)}", style="cyan"), soft_wrap=True)


def command(
    size: Annotated[str, typer.Option(metavar="SIZE", help="The size of a region that you plan.")] = "1G",
    as_json: AsJson = False,
) -> int:
    """Say what this machine can do, and what to change.

    doctor looks at backends, huge pages, /dev/shm and limits, and changes nothing: commands are printed, never run. The
    exit code is 8 if no backend can be used, else 0.
    """
    facts = machine.inspect(parse_size(size))
    found = findings(facts)
    if as_json:
        print_json(findings_json(facts, found))
    else:
        for finding in found:
            _print_finding(finding)
    return OK if any(backend.usable for backend in facts.backends) else UNAVAILABLE
