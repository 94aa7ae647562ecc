"""`mshare stat`: all facts about one region. May depend on: _console, show, listing."""

from __future__ import annotations

import time

from ..._core import listing
from ..show import region_fields, region_json
from ._console import AsJson, RegionName, owner_name, print_fields, print_json

EXAMPLES = """
mshare stat sga
mshare stat sga --json | jq .page_table_bytes
"""


def command(name: RegionName, as_json: AsJson = False) -> None:
    """Show everything about one region.

    The command shows the region's rights, its backend and the reason for that backend, the page tables that a process
    pays, the attached processes, and the region's file.
    """
    info = listing.region_info(name)
    if as_json:
        print_json(region_json(info))
    else:
        print_fields(region_fields(info, time.time(), owner_name))
