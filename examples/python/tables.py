"""Eight workers, one numpy table: each worker has the table without a copy of it.

Run: python examples/python/tables.py. docs/tables.md explains the calls.
"""

from __future__ import annotations

from multiprocessing import get_context

import numpy

import mshare
import mshare.numpy
from mshare.numpy import Reference

ROWS = 1_000_000
WORKERS = 8


def work(task: tuple[int, Reference, Reference]) -> tuple[int, float]:
    """Return the mean price of every eighth day."""
    number, days, prices = task
    chosen = days.load() % WORKERS == number
    return number, float(prices.load()[chosen].mean())


def main() -> None:
    """Run the example, and remove what it made."""
    days = numpy.arange(ROWS, dtype="int32")
    prices = numpy.random.default_rng(7).normal(100.0, 5.0, ROWS)
    mshare.numpy.save("example-prices", {"day": days, "price": prices}, mode=0o400).close()
    try:
        references = Reference("example-prices", "day"), Reference("example-prices", "price")
        with get_context("spawn").Pool(WORKERS) as pool:
            means = dict(pool.map(work, [(number, *references) for number in range(WORKERS)]))
        assert all(means[number] == prices[number::WORKERS].mean() for number in range(WORKERS))
        print(", ".join(f"{means[number]:.3f}" for number in range(WORKERS)))
    finally:
        mshare.unlink("example-prices")


if __name__ == "__main__":
    main()
