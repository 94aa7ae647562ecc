"""`mshare ls`: the regions there are. May depend on: _console, show, listing, errors, record."""

from __future__ import annotations

import time

from ..._core import listing
from ..._core.errors import BackendUnavailableError
from ..._core.record import HeldRegion
from ..show import held_json, held_table, region_json, regions_table
from ._console import AsJson, owner_name, print_json, print_line, print_table

EXAMPLES = """
mshare ls
mshare ls --json | jq -r '.regions[] | select(.orphan) | .name'
"""


def command(as_json: AsJson = False) -> None:
    """List the regions that you may read.

    USERS is the number of attached processes that you can see. USERS is `others` if all attached processes are hidden
    from you (another user's or another container's), and `orphan` if no process is attached. LEAF is the size that one
    last-level page-table entry maps; `mixed` is a region on thp whose memory was not reserved.

    Below the regions stand those that have no name any more and that processes still hold: older versions of a region
    that has been replaced, and removed regions. Their memory is given back when the last of these processes detaches.
    """
    infos, (held, problem) = listing.regions(), _held()
    if as_json:
        fields = {"regions": [region_json(info) for info in infos]}
        print_json({**fields, "held": None if problem else [held_json(each) for each in held]})
        return
    if infos:
        print_table(regions_table(infos, time.time(), owner_name))
    if held:
        print_line("" if infos else "no region has a name")
        print_table(held_table(held))
    if problem:
        print_line(f"regions without a name cannot be shown: {problem}")


def _held() -> tuple[list[HeldRegion], str]:
    """Return the regions without a name, and why there is no answer."""
    try:
        return listing.held_regions(), ""
    except BackendUnavailableError as error:
        return [], f"{error.problem} ({error.hint})"
