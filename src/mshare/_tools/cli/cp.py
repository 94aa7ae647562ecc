"""`mshare cp`: files into regions and back.

May depend on: _complete, _console, _exits, _files, _progress, attachment, creation, show, table, units, record,
typer, names, replacement.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Annotated

import typer

from ..._core import names, replacement
from ..._core.attachment import attach
from ..._core.creation import create
from ..._core.record import RegionInfo
from ..._core.units import format_size, parse_size
from ..show import region_json, without
from ..table import printable
from . import _files
from ._complete import PREFIX, region_sources
from ._console import AsJson, BackendName, parse_mode, print_json, print_line
from ._exits import UsageError
from ._progress import bars

EXAMPLES = """
mshare cp table.bin region:table
mshare cp region:table copy.bin
zcat table.gz | mshare cp - region:table
zcat table.gz | mshare cp - region:table --size 12G
mshare cp region:table - | sha256sum
mshare cp region:table region:table2 --backend shm
mshare cp --replace new-weights.safetensors region:weights
"""


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="FILE, - or region:NAME.", show_default=False, autocompletion=region_sources
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="FILE, - or region:NAME.", show_default=False)],
    *,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="Permission bits of the new region.  [default: 0600, or those of the region that it replaces]",
        ),
    ] = None,
    readonly: Annotated[bool, typer.Option("--readonly", help="The same as --mode 0444.")] = False,
    backend: BackendName = None,
    size: Annotated[
        str | None, typer.Option(help="Exact size of a SRC of unknown size, to avoid spooling.", metavar="SIZE")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give the new region the name of an existing one, in one step.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a file into a new region, or a region to a file.

    region:NAME means a region, - means stdin or stdout, and everything else is a file (./region:x for a file of such a
    name). The copy is all or nothing: the new region's name, or the file, appears when every byte is there. cp never
    writes to an existing region.

    With --replace the new region takes over the name of the existing one as soon as every byte is there. Processes that
    have the older one attached keep it, and `mshare ls` shows them.

    The size of a pipe is not known beforehand. Above 4 MiB cp spools the pipe into an unnamed file in $TMPDIR, unless
    --size gives the size.
    """
    if source.startswith(PREFIX) is target.startswith(PREFIX) is False:
        raise UsageError("one of SRC and DST must be a region, written region:NAME")
    if mode is not None and readonly:
        raise UsageError("--mode and --readonly exclude each other")
    if target.startswith(PREFIX):
        bits = 0o444 if readonly else None if mode is None else parse_mode(mode)
        length = None if size is None else parse_size(size)
        info = _copy_in(source, target.removeprefix(PREFIX), bits, backend, length, replace=replace)
        if as_json:
            print_json(region_json(info))
        else:
            print_line(f"{format_size(info.size)} in region {printable(info.name)} ({info.backend}, {info.addr:#x})")
        return
    if mode is not None or readonly or backend is not None or size is not None or replace:
        raise UsageError("--mode, --readonly, --backend, --size and --replace are for a new region")
    if as_json and _files.is_stdout(target):
        raise UsageError(f"--json needs stdout, and so does {printable(target)}")
    copied = _copy_out(source.removeprefix(PREFIX), target)
    if as_json:
        print_json({"region": source.removeprefix(PREFIX), "file": target, "size": copied})
    elif not _files.is_stdout(target):
        print_line(f"{format_size(copied)} in {printable(target)}")


def _copy_in(
    source: str, name: str, mode: int | None, backend: str | None, size: int | None, *, replace: bool
) -> RegionInfo:
    shown = printable(name)
    older = replacement.find_older(name) if replace else None  # before a pipe is drained in vain
    if mode is None:
        mode = 0o600 if older is None else older.mode
    with ExitStack() as stack:
        spooling, reserving, copying = stack.enter_context(bars("spooling", f"reserving {shown}", f"filling {shown}"))
        if source.startswith(PREFIX):
            if size is not None:
                raise UsageError("--size is for a file or stdin; a region knows its size")
            region = stack.enter_context(attach(source.removeprefix(PREFIX), readonly=True))
            size = region.size
            read = _files.reader_of_region(stack.enter_context(region.handle()).fileno(), size)
        else:
            names.check_name(name)
            if not replace:
                names.refuse_existing(name)  # before a pipe is drained in vain
            read, size = stack.enter_context(_files.sized_source(source, size, spooling))

        def fill(view: memoryview) -> None:
            _files.fill_exactly(view, read, _files.shown(source), copying)

        with create(name, size, mode=mode, backend=backend, progress=reserving, fill=fill, replace=replace) as made:
            return without(made.info(), os.getpid())


def _copy_out(name: str, target: str) -> int:
    with (
        bars(f"copying {printable(name)}") as (step,),
        attach(name, readonly=True) as region,
        region.handle() as handle,
        _files.target(target, os.fstat(handle.fileno()).st_mode) as fd,
    ):
        _files.copy_region(handle.fileno(), region.size, fd, step)
        return region.size
