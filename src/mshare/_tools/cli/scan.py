"""`mshare scan`: who pays for page tables here. May depend on: _console, _exits, _files, _snapshots, _tools.scan,
units, typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..._core.units import parse_size
from ..scan.groups import KEYS, groups
from ..scan.saved import dump
from ..scan.show import groups_json, groups_table, remarks, survey_json, table, totals
from ..scan.survey import survey
from ._console import AsJson, print_fields, print_json, print_line, print_table
from ._exits import UsageError
from ._files import write
from ._snapshots import Exact, From, Pids, User, take

EXAMPLES = """
mshare scan
sudo mshare scan --exact --project 1500
sudo mshare scan --by unit
sudo mshare scan --save server.snapshot
mshare scan --from server.snapshot
mshare scan --pid $(pgrep -o postgres) --json
"""


def command(
    exact: Exact = False,
    project: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1 << 22, help="Compute the costs for N processes.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Group processes: command, user, cgroup, container, unit.")
    ] = None,
    pids: Pids = None,
    user: User = None,
    least: Annotated[
        str, typer.Option("--min", metavar="SIZE", help="Hide objects with less page-table memory than SIZE.")
    ] = "64K",
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the snapshot.", show_default=False)
    ] = None,
    read: From = None,
    as_json: AsJson = False,
) -> None:
    """Show who pays for page tables, and what sharing would save.

    There is one line per object that processes map. NOW has the object's page tables (bounds, or one figure with
    --exact). The next columns have the page tables with one SHARED set of tables, with 2 MiB and with 1 GiB leaves.
    LEAF is the present leaf. Root sees all processes, and other users see their own. docs/scan.md says what the numbers
    mean.
    """
    if by is not None and by not in KEYS:
        raise UsageError(f"--by {by} is not one of {', '.join(KEYS)}")
    if by is not None and project is not None:
        raise UsageError("--project computes objects, --by groups processes: say one of them")
    if save is not None and str(save) == "-":
        raise UsageError("--save needs a file, because the table goes to stdout")
    least_bytes = parse_size(least)
    snapshot = take(read, exact=exact, pids=pids, user=user)
    if save is not None:
        write(str(save), dump(snapshot))
    found = survey(snapshot)
    if by is not None:
        grouped = groups(snapshot, found, by)
        if as_json:
            print_json(groups_json(grouped, by))
            return
        print_table(groups_table(grouped, by, least_bytes))
    elif as_json:
        print_json(survey_json(snapshot, found, least=least_bytes, processes=project))
        return
    else:
        print_table(table(found, least=least_bytes, processes=project))
    print_line("")
    print_fields(totals(snapshot, found))
    for remark in remarks(snapshot, found):
        print_line(f"- {remark}")
