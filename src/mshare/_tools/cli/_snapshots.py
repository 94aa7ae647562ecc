"""Snapshots for commands: of this machine, or from a file. May depend on: _console, _exits, _tools.scan,
collect, listing, errors, procfs, rich, typer."""

from __future__ import annotations

import pwd
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..._core import listing
from ..._core.errors import InvalidArgumentError, NotASnapshotError
from ..._core.procfs import FileId
from ..collect import Choice, collect
from ..scan import saved
from ..scan.snapshot import Snapshot
from ._console import console
from ._exits import UsageError

Exact = Annotated[bool, typer.Option("--exact", help="Walk the page tables: 3 ns per entry of each process.")]
Pids = Annotated[list[int] | None, typer.Option("--pid", metavar="PID", help="Only this process (repeatable).")]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Only this user's processes.", show_default=False)]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="Study a saved snapshot instead of this machine.", show_default=False),
]

_WORTH_A_BAR_S = 0.5


def take(read: Path | None, *, exact: bool, pids: list[int] | None, user: str | None) -> Snapshot:
    """Return the snapshot in file `read`, or one of this machine, with a progress bar if it takes long."""
    if read is not None:
        if exact or pids or user:
            raise UsageError("--exact, --pid and --user choose what is read from this machine: not with --from")
        return load(read)
    choice = Choice(frozenset(pids) if pids else None, None if user is None else uid_of(user))
    start = time.monotonic()
    with Progress(console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading processes", visible=False)

        def show(done: int, total: int) -> None:
            late = time.monotonic() - start > _WORTH_A_BAR_S
            bar.update(task, completed=done, total=total, visible=late)

        return collect(choice=choice, exact=exact, regions=region_names(), progress=show)


def load(path: Path) -> Snapshot:
    """Return the snapshot in the file `path`. Raises `NotASnapshotError` and `OSError`, which name the file."""
    try:
        with path.open("rb") as file:
            return saved.read(file)
    except NotASnapshotError as error:
        raise NotASnapshotError(f"{path}: {error.problem}", error.hint) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def region_names() -> dict[FileId, str]:
    """Return the names of mshare's own regions, by the file that each is."""
    return {found.entry.file: found.entry.name for found in listing.records()}


def uid_of(name: str) -> int:
    """Return the number of a user given by name or number. Raises `InvalidArgumentError`."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        if name.isascii() and name.isdigit():
            return int(name)
        raise InvalidArgumentError(f"there is no user {name!r}", "say a user's name or number") from None
