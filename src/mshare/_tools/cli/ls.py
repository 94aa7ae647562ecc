"""`mshare ls`: the regions there are. May depend on: _console, show, listing."""

from __future__ import annotations

import time

from ..._core import listing
from ..show import region_json, regions_table
from ._console import AsJson, owner_name, print_json, print_table

EXAMPLES = """
mshare ls
mshare ls --json | jq -r '.regions[] | select(.orphan) | .name'
"""


def command(as_json: AsJson = False) -> None:
    """List the regions that you may read.

    USERS is the number of attached processes that you can see. USERS is `others` if all attached processes are hidden
    from you (another user's or another container's), and `orphan` if no process is attached. LEAF is the size that one
    last-level page-table entry maps.
    """
    infos = listing.regions()
    if as_json:
        print_json({"regions": [region_json(info) for info in infos]})
    elif infos:
        print_table(regions_table(infos, time.time(), owner_name))
