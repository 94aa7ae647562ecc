"""`mshare gc`: remove regions that nobody uses any more. May depend on: _console, _exits, removal, show, table, units,
typer."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ..._core import removal
from ..._core.units import format_age, format_size, parse_age
from ..show import region_json
from ..table import printable
from ._console import AsJson, print_json, print_line
from ._exits import UsageError

EXAMPLES = """
mshare gc --older-than 7d --dry-run
mshare gc --older-than 12h
mshare gc --all
"""


def command(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Orphans created at least that long ago: 90s, 30m, 12h, 7d.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Orphans of any age.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove orphans: regions that nobody is attached to.

    Only root removes orphans of other users. A region that waits for its first or next user is also an orphan. Give an
    age that no such wait reaches, or --all. The age counts from the creation, not from the last use.
    """
    if older_than is not None and every:
        raise UsageError("say --older-than AGE or --all, not both")
    if older_than is None and not every:
        raise UsageError("say how old an orphan must be (--older-than AGE), or --all")
    seconds = 0.0 if older_than is None else parse_age(older_than)
    found = [info for info, _ in removal.orphans(older_than=seconds)] if dry_run else removal.gc(older_than=seconds)
    if as_json:
        print_json({"dry_run": dry_run, "regions": [region_json(info) for info in found]})
        return
    now = time.time()
    verb = "would remove" if dry_run else "removed"
    for info in found:
        age = format_age(now - info.created)
        print_line(f"{verb} {printable(info.name)}, {format_size(info.size)}, {age} old")
    total = format_size(sum(info.size for info in found))
    print_line(f"{verb} {len(found)} {'region' if len(found) == 1 else 'regions'}, {total}")
