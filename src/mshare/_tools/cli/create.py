"""`mshare create`: an empty region. May depend on: _console, _progress, creation, show, table, units, typer."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..._core.creation import create
from ..._core.units import format_size, parse_size
from ..show import region_json, without
from ..table import printable
from ._console import AsJson, BackendName, NewName, parse_address, parse_mode, print_fields, print_json
from ._progress import bars

EXAMPLES = """
mshare create sga 1G
mshare create sga 300G --backend hugetlb --mode 0660
mshare create scratch 10G --sparse
mshare create table 64G --numa interleave
"""


def command(
    name: NewName,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Like 4096, 64K, 1.5GiB, 300G.", show_default=False)],
    *,
    mode: Annotated[str, typer.Option(metavar="MODE", help="Permission bits, in octal.")] = "0600",
    backend: BackendName = None,
    addr: Annotated[
        str | None, typer.Option(metavar="ADDR", help="The address for all processes, like 0x200000000000.")
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Reserve nothing: memory comes on first touch, or by Region.populate.")
    ] = False,
    numa: Annotated[
        str | None,
        typer.Option(metavar="NODE", help="Take all memory from this memory node, or 'interleave': from all in turn."),
    ] = None,
    leaf: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="2M or 4K: what one page-table entry shall map. Default: the best there is."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a region of zeros that stays until somebody removes it.

    All memory of the region is reserved now, unless --sparse is given. The region is an orphan until a process attaches
    it, and `mshare gc --all` would remove it.
    """
    with (
        bars(f"reserving {printable(name)}") as (step,),
        create(
            name,
            parse_size(size),
            mode=parse_mode(mode),
            backend=backend,
            addr=None if addr is None else parse_address(addr),
            reserve=not sparse,
            numa=int(numa) if numa is not None and numa.isdecimal() else numa,
            leaf=leaf,
            progress=step,
        ) as region,
    ):
        info = without(region.info(), os.getpid())
    if as_json:
        print_json(region_json(info))
        return
    print_fields(
        [
            ("created", f"{printable(info.name)}, {format_size(info.size)}"),
            ("backend", info.backend),
            ("address", f"{info.addr:#x}"),
            ("why", printable(info.reason)),
        ]
    )
