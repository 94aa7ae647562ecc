"""The process that loads the table into a new region, and then only waits for its kill. May depend on: flights,
columns, creation, measure.child."""

from __future__ import annotations

import sys

from ..._core import creation
from ...measure.child import Child, requests, say
from . import columns, flights

_CODE = "from mshare._tools.demo.loader import main; main()"


def start(name: str, size_bytes: int, *, stop_at_column: int = 0) -> Child:
    """Start a loader. The loader reports the number of written columns, and at the end the region that it has made.

    With `stop_at_column` the loader waits forever once that many columns are written.
    """
    return Child(_CODE, name, str(size_bytes), str(stop_at_column))


def main() -> None:
    """In the process: create the region with the table, report, and keep the region attached until the end."""
    name, size_bytes, stop_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    table = columns.encode(flights.load())
    layout = columns.lay_out(table, size_bytes)

    def written(done: int) -> None:
        say({"columns_written": done, "columns": len(table)})
        if done == stop_at:
            next(requests(), None)
            sys.exit("nobody has killed this loader")

    region = creation.create(name, size_bytes, fill=lambda view: columns.write(view, table, layout, written))
    say({"addr": region.addr, "backend": region.backend, "reason": region.info().reason, "tiles": layout.tiles})
    next(requests(), None)
    region.close()
