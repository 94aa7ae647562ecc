"""One table of flights for DuckDB, polars and pyarrow, in processes of their own and without a copy.

Run: python examples/python/flights.py. docs/tables.md explains the calls.
"""

from __future__ import annotations

from multiprocessing import get_context

import duckdb
import polars
import pyarrow

import mshare
import mshare.arrow

NAME = "example-flights"
ROWS = 200_000


def mean_delay(library: str) -> tuple[str, float]:
    """Attach the table and return the mean delay of the carrier UA."""
    flights = mshare.arrow.load(NAME)
    if library == "duckdb":
        [(mean,)] = duckdb.sql("select avg(delay) from flights where carrier = 'UA'").fetchall()
    elif library == "polars":
        mean = polars.from_arrow(flights).filter(polars.col("carrier") == "UA")["delay"].mean()
    else:
        mean = flights.group_by("carrier").aggregate([("delay", "mean")]).to_pylist()[0]["delay_mean"]
    return library, float(mean)


def main() -> None:
    """Run the example, and remove what it made."""
    carriers = pyarrow.array(["UA", "DL", "AA", "B6"] * (ROWS // 4)).dictionary_encode()
    flights = pyarrow.table({"carrier": carriers, "delay": [number % 97 for number in range(ROWS)]})
    mshare.arrow.save(NAME, flights).close()
    try:
        with get_context("spawn").Pool(3) as pool:
            means = dict(pool.map(mean_delay, ["duckdb", "polars", "pyarrow"]))
        assert len({round(mean, 9) for mean in means.values()}) == 1, means
        print(", ".join(f"{library} {mean:.3f}" for library, mean in means.items()))
    finally:
        mshare.unlink(NAME)


if __name__ == "__main__":
    main()
