"""`mshare module`: the kernel module, from its source to a mounted file system. May depend on: module."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import module
from ..module import Status
from ..report import printable
from ..units import format_size, parse_size
from ._console import AsJson, print_fields, print_json, print_line
from ._exits import OK, UNAVAILABLE, UsageError

EXAMPLES = """
mshare module status
mshare module build
sudo mshare module load --size 64G
sudo mshare module unload
"""


class Action(StrEnum):
    """What to do."""

    BUILD = "build"
    LOAD = "load"
    UNLOAD = "unload"
    STATUS = "status"


def _fields(status: Status) -> list[tuple[str, str]]:
    """Return the status as pairs of label and text."""
    if status.mounted:
        room = f", {format_size(status.free_bytes or 0)} of {format_size(status.size_bytes or 0)} free"
        mounted = f"on {status.mount_point}, regions: {'not ours to see' if status.regions is None else status.regions}"
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


def command(
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="build, load, unload or status.")],
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="load: what all regions may take. Default: half the memory.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="RELEASE", help="build: for that kernel. Default: the running one.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where built modules are kept. Default: root's or your cache.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Build, load or unload the kernel module, or say how it is.

    It gives backend msharefs: page tables that processes share. load builds it if need be, puts it into the kernel and
    mounts msharefs on /sys/fs/mshare; unload refuses while there are regions. Both need root. Building needs the
    kernel's headers, make and gcc. Exit code of status: 0 if it is loaded and mounted, else 8.
    """
    if size is not None and action is not Action.LOAD:
        raise UsageError("--size goes with load")
    if kernel is not None and action is not Action.BUILD:
        raise UsageError("--kernel goes with build")
    if action is Action.BUILD:
        path = module.build(kernel, cache)
        if as_json:
            print_json({"module": str(path)})
        else:
            print_line(printable(str(path)))
        return OK
    if action is Action.LOAD:
        found = module.load(None if size is None else parse_size(size), cache)
    elif action is Action.UNLOAD:
        found = module.unload()
    else:
        found = module.status(cache)
    if as_json:
        print_json(asdict(found))
    else:
        print_fields(_fields(found))
    return OK if action is not Action.STATUS or (found.loaded and found.mounted) else UNAVAILABLE
