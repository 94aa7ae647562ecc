"""`mshare stat`: all facts about one region. May depend on: _console, show, extent, listing,
typer."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ..._core import extent, listing
from ..show import nodes_fields, nodes_json, region_fields, region_json
from ._console import AsJson, RegionName, owner_name, print_fields, print_json

EXAMPLES = """
mshare stat sga
mshare stat sga --json | jq .page_table_bytes
mshare stat sga --nodes
"""


def command(
    name: RegionName,
    *,
    nodes: Annotated[bool, typer.Option("--nodes", help="Also count the memory on each memory node.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show everything about one region.

    The command shows the region's rights, its backend and the reason for that backend, the page tables that a process
    pays, the attached processes, and the region's file.

    With --nodes the command looks at every page of the region, if the machine has several memory nodes. That takes
    about 0.1 s per GiB of 4 KiB pages, and clears pages that were reserved and that nobody has touched yet.
    """
    info = listing.region_info(name)
    counts = extent.by_node(name) if nodes else None
    if as_json:
        print_json(region_json(info) | ({} if counts is None else {"nodes": nodes_json(counts)}))
    else:
        print_fields(region_fields(info, time.time(), owner_name) + nodes_fields(counts or {}))
