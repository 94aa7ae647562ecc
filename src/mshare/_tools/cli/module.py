"""`mshare module`: the kernel module, from its source to a mounted file system. May depend on: _console, _exits,
_tools.module, table, units, typer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..._core.units import format_size, parse_size
from .. import module
from ..module import Status
from ..table import printable
from ._console import (
    AsJson,
    group_name,
    owner_name,
    parse_group,
    parse_mode,
    print_fields,
    print_json,
    print_line,
)
from ._exits import OK, UNAVAILABLE

EXAMPLES = """
mshare module status
mshare module build
sudo mshare module load --size 64G                   # regions of root only
sudo mshare module load --size 64G --group postgres  # and of database users
sudo mshare module load --mode 1777                  # a machine of one user
sudo mshare module unload
"""


HELP = """Manage the mshare kernel module.

The module gives backend msharefs: page tables that processes share.
"""

Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where built modules are kept. Default: root's or your cache.")
]


def _fields(status: Status) -> list[tuple[str, str]]:
    """Return the status as pairs of label and text."""
    if status.mounted:
        room = f", {format_size(status.free_bytes or 0)} of {format_size(status.size_bytes or 0)} free"
        rights = f"mode {status.mode or 0:04o}, {owner_name(status.uid or 0)}:{group_name(status.gid or 0)}"
        regions = "not ours to see" if status.regions is None else status.regions
        mounted = printable(f"on {status.mount_point} ({rights}), regions: {regions}")
        mounted += room
    else:
        mounted = "no"
    return [
        ("kernel", printable(status.kernel)),
        ("takes modules", "yes" if status.obstacle is None else f"no: {status.obstacle}"),
        ("loaded", "yes" if status.loaded else "no"),
        ("mounted", mounted),
        ("headers", printable(status.headers or "not installed")),
        ("built", printable(status.built or "no")),
        ("source", printable(status.source)),
    ]


def build(
    kernel: Annotated[
        str | None, typer.Option(metavar="RELEASE", help="Build for that kernel. Default: the running one.")
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Build the module and print where it is.

    Building needs the kernel's headers, make and gcc. A module in the cache is not built again.
    """
    path = module.build(kernel, cache)
    if as_json:
        print_json({"module": str(path)})
    else:
        print_line(printable(str(path)))


def load(
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Limit of all regions together. Default: half the memory.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="OCTAL", help="Mode of the directory. Default: 0755, with --group 1775.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Group that may make regions, by name or gid.")
    ] = None,
    huge: Annotated[
        str | None,
        typer.Option(
            metavar="WORD", help="Regions with 2 MiB pages: never (the default), advise (those that ask), always."
        ),
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Load the module and mount msharefs.

    The command builds the module if the cache has none, loads the module, and mounts msharefs on /sys/fs/mshare. Needs
    root.

    Who may make regions: the kernel never swaps the memory of regions and counts that memory in no process. A user who
    makes regions can fill all of --size, and the OOM killer then ends processes of others. Only root makes regions
    unless --group or --mode says otherwise. --group admits one group, which is safe if you trust its members with that
    memory. --mode 1777 admits everybody, which is safe on a machine of one user. If msharefs is already mounted,
    --group and --mode change the directory, --huge changes the mount, and --size changes nothing.
    """
    found = module.load(
        size=None if size is None else parse_size(size),
        mode=None if mode is None else parse_mode(mode),
        gid=None if group is None else parse_group(group),
        cache=cache,
        huge=huge,
    )
    _show(found, as_json=as_json)


def unload(as_json: AsJson = False) -> None:
    """Unmount msharefs and unload the module.

    The command is refused while there are regions. It needs root.
    """
    _show(module.unload(), as_json=as_json)


def status(cache: Cache = None, as_json: AsJson = False) -> int:
    """Show whether the module is built, loaded and mounted.

    The exit code is 0 if the module is loaded and mounted, else 8.
    """
    found = module.status(cache)
    _show(found, as_json=as_json)
    return OK if found.loaded and found.mounted else UNAVAILABLE


def _show(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found) | {"mode": None if found.mode is None else f"{found.mode:04o}"})
    else:
        print_fields(_fields(found))


SUBCOMMANDS = {"status": status, "build": build, "load": load, "unload": unload}
