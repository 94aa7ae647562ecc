"""`mshare rm`: remove names. May depend on: _complete, _console, _exits, calls, removal, table, errors, typer."""

from __future__ import annotations

from typing import Annotated

import typer

from ..._core.calls import mshare_unlink
from ..._core.errors import MshareError, RegionBusyError
from ..._core.removal import unlink
from ..table import printable
from ._complete import region_names
from ._console import AsJson, print_json, print_line
from ._exits import OK, code_of, error_json, fail

EXAMPLES = """
mshare rm sga
mshare rm --force sga old-sga
"""


def command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Regions to remove.", show_default=False, autocompletion=region_names),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Remove the name even while processes are attached. They keep the memory.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Remove regions that nobody is attached to.

    rm refuses a region that is in use (exit code 5). With several names rm tries each name. The exit code is that of
    the first failure.
    """
    removed: list[str] = []
    failed: list[tuple[str, MshareError]] = []
    for name in names:
        try:
            if force:
                unlink(name)
            else:
                mshare_unlink(name)
            removed.append(name)
        except RegionBusyError as error:
            hint = "end them first, or remove the name with --force (they keep the memory)"
            failed.append((name, RegionBusyError(error.problem, hint)))
        except MshareError as error:
            failed.append((name, error))
    if as_json:
        document = {"removed": removed, "failed": [{"name": name, **error_json(problem)} for name, problem in failed]}
        print_json(document)
    else:
        for name in removed:
            print_line(f"removed {printable(name)}")
        for _, problem in failed:
            fail(problem, as_json=False)
    return code_of(failed[0][1]) if failed else OK
