"""`mshare doctor`: the abilities of this machine, and useful changes. May depend on: _console, _exits,
_tools.preload.status, findings, machine, table, units, rich, typer."""

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
sudo mshare doctor --pid 4711
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
    pid: Annotated[
        int | None, typer.Option(metavar="PID", min=1, help="Look at the shared memory of this process instead.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Say what this machine can do, and what to change.

    doctor looks at backends, huge pages, /dev/shm and limits, and changes nothing: commands are printed, never run. The
    exit code is 8 if no backend can be used, else 0. With --pid, doctor looks at a running process: which of its shared
    memory has cheap page tables, and what to do about the rest.
    """
    if pid is not None:
        return _of_process(pid, as_json)
    facts = machine.inspect(parse_size(size))
    found = findings(facts)
    if as_json:
        print_json(findings_json(facts, found))
    else:
        for finding in found:
            _print_finding(finding)
    return OK if any(backend.usable for backend in facts.backends) else UNAVAILABLE


def _of_process(pid: int, as_json: bool) -> int:
    from ..preload.status import findings, status  # the machinery of `mshare scan`

    found = findings(status(pid))
    if as_json:
        print_json({"pid": pid, "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            _print_finding(finding)
    return OK
