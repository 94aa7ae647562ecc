"""A table in a region, column by column, readable by any process without copying. May depend on: errors, units, numpy,
pyarrow.

Layout of the region::

    0                  8                      8 + length      offset of each column, a multiple of 64
    | length (u64 LE)  | header (JSON, UTF-8) | zeros ...     | values | zeros ... | values | ...

The header: `{"rows": all rows, "tiles": copies of the table, "columns": [{"name", "dtype", "offset", "values"}]}`.
`dtype` is numpy's. `values` is null, or the texts of a column whose numbers are indexes into it. Numbers that may be
missing are float32 with NaN for NULL (these tables' whole numbers are small enough to be exact).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.errors import InvalidSizeError, NotARegionError
from ..._core.units import format_size

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

_LENGTH = struct.Struct("<Q")
_ALIGN = 64


class Column(NamedTuple):
    """One column's values, as they go into the region once per tile."""

    name: str
    array: Array
    values: list[str] | None


class Layout(NamedTuple):
    """The places of header and columns in the region."""

    header: bytes
    tiles: int
    offsets: tuple[int, ...]
    used_bytes: int


def _smallest(array: Array) -> Array:
    import numpy

    low, high = (array.min(), array.max()) if len(array) else (0, 0)
    for dtype in (numpy.int8, numpy.int16, numpy.int32):
        if numpy.iinfo(dtype).min <= low and high <= numpy.iinfo(dtype).max:
            return array.astype(dtype)
    return array


def encode(table: Any) -> list[Column]:
    """Return the columns of a `pyarrow.Table` in their smallest exact form."""
    import numpy
    import pyarrow

    columns = []
    for name in table.column_names:
        data, values = table[name].combine_chunks(), None
        if pyarrow.types.is_string(data.type):
            coded = data.dictionary_encode()
            data, values = coded.indices, coded.dictionary.to_pylist()
        elif pyarrow.types.is_timestamp(data.type):
            data = data.cast(pyarrow.int64())
        if data.null_count:
            array = data.cast(pyarrow.float64()).to_numpy(zero_copy_only=False).astype(numpy.float32)
        else:
            array = _smallest(data.to_numpy(zero_copy_only=False))
        columns.append(Column(name, array, values))
    return columns


def _round_up(value: int) -> int:
    return -(-value // _ALIGN) * _ALIGN


def _laid_out(columns: list[Column], tiles: int) -> Layout:
    start = 0
    for _ in range(2):  # offsets are relative to the header's end, so its length needs to be known: once to learn it
        offsets, end = [], start
        for column in columns:
            offsets.append(end)
            end += _round_up(column.array.nbytes * tiles)
        entries = [
            {"name": column.name, "dtype": column.array.dtype.str, "offset": offset, "values": column.values}
            for column, offset in zip(columns, offsets, strict=True)
        ]
        rows = len(columns[0].array) * tiles
        header = json.dumps({"rows": rows, "tiles": tiles, "columns": entries}).encode()
        if start == 0:
            start = _round_up(_LENGTH.size + len(header) + 20 * len(columns))
    return Layout(_LENGTH.pack(len(header)) + header, tiles, tuple(offsets), end)


def lay_out(columns: list[Column], size_bytes: int) -> Layout:
    """Return the layout of as many whole copies of the table as fit. Raises `InvalidSizeError` if not even one does."""
    one, two = _laid_out(columns, 1), _laid_out(columns, 2)
    if one.used_bytes > size_bytes:
        raise InvalidSizeError(
            f"one copy of the table needs {format_size(one.used_bytes)}, the region has {format_size(size_bytes)}",
            "choose a larger size",
        )
    tiles = 1 + (size_bytes - one.used_bytes) // (two.used_bytes - one.used_bytes)
    while (layout := _laid_out(columns, tiles)).used_bytes > size_bytes:  # rounding
        tiles -= 1
    return layout


def write(view: memoryview, columns: list[Column], layout: Layout, written: Callable[[int], None]) -> None:
    """Write header and columns; `written` is called after each column with the number of those done."""
    import numpy

    view[: len(layout.header)] = layout.header
    for done, (column, offset) in enumerate(zip(columns, layout.offsets, strict=True), 1):
        rows = len(column.array)
        target = numpy.frombuffer(view, column.array.dtype, count=rows * layout.tiles, offset=offset)
        target.reshape(layout.tiles, rows)[:] = column.array
        written(done)


class Stored(NamedTuple):
    """A table found in a region: arrays over the region's own memory."""

    rows: int
    tiles: int
    arrays: dict[str, Array]
    values: dict[str, list[str]]


def read(view: memoryview) -> Stored:
    """Return the table in a region, zero copy. Raises `NotARegionError` if what is there is no such table."""
    import numpy

    try:
        (length,) = _LENGTH.unpack_from(view)
        header = json.loads(bytes(view[_LENGTH.size : _LENGTH.size + length]))
        rows, columns = header["rows"], header["columns"]
        arrays = {c["name"]: numpy.frombuffer(view, c["dtype"], count=rows, offset=c["offset"]) for c in columns}
        values = {c["name"]: c["values"] for c in columns if c["values"] is not None}
        return Stored(rows, header["tiles"], arrays, values)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise NotARegionError(f"the region holds no table ({error})", "let the demo make its own") from error
