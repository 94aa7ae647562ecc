"""A process that attaches read-only and computes every carrier's mean arrival delay. May depend on: columns,
attachment, measure.child, numpy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..._core import attachment
from ...measure.child import Child, requests, say
from . import columns

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

_CODE = "from mshare._tools.demo.worker import main; main()"
_CHUNK_ROWS = 1 << 18
"""Rows taken at a time: intermediate arrays stay in the cache and do not count as memory."""


def start(name: str) -> Child:
    """Start a worker. The worker reports its address. At `{"upto": F}` it works up to that fraction of all rows."""
    return Child(_CODE, name)


class Delays:
    """Sums and counts of arrival delays per carrier, so far. Whole minutes: the sums are exact."""

    def __init__(self, table: columns.Stored) -> None:
        import numpy

        self._delay, self._carrier = table.arrays["arr_delay"], table.arrays["carrier"]
        self._carriers = table.values["carrier"]
        self._sums = numpy.zeros(len(self._carriers), numpy.float64)
        self._counts = numpy.zeros(len(self._carriers), numpy.int64)
        self.rows_done = 0

    def advance(self, rows_upto: int) -> None:
        """Continue with the rows up to `rows_upto`."""
        import numpy

        kinds = len(self._carriers)
        while self.rows_done < rows_upto:
            rows = slice(self.rows_done, min(self.rows_done + _CHUNK_ROWS, rows_upto))
            delay, carrier = self._delay[rows], self._carrier[rows]
            arrived = ~numpy.isnan(delay)  # NaN: cancelled or diverted
            self._sums += numpy.bincount(carrier[arrived], weights=delay[arrived], minlength=kinds)
            self._counts += numpy.bincount(carrier[arrived], minlength=kinds)
            self.rows_done = rows.stop

    def result(self) -> dict[str, tuple[int, float]]:
        """Return, by carrier, the flights that arrived and their mean delay in minutes."""
        counts, sums = self._counts.tolist(), self._sums.tolist()
        return {c: (n, total / n) for c, n, total in zip(self._carriers, counts, sums, strict=True) if n}


def main() -> None:
    """In the process: attach, report the address, and work on request."""
    with attachment.attach(sys.argv[1], readonly=True) as region:
        table = columns.read(region.buf)
        delays = Delays(table)
        say({"addr": region.addr, "rows": table.rows})
        for request in requests():
            delays.advance(int(table.rows * request["upto"]))
            say({"rows_done": delays.rows_done, "result": delays.result()})
        del table, delays
