"""A table written into plain bytes and read back: the layout holds, NULLs and texts come through."""

from __future__ import annotations

import math

import pyarrow
import pytest

from mshare._core.errors import InvalidSizeError, NotARegionError
from mshare._tools.demo import columns

TABLE = pyarrow.table(
    {
        "carrier": ["UA", "AA", "UA", "B6", "AA"],
        "arr_delay": pyarrow.array([11, None, -25, 850, 0], pyarrow.int64()),
        "flight": [1545, 1714, 1141, 725, 461],
    }
)


def stored(size: int) -> tuple[columns.Layout, columns.Stored, list[int]]:
    encoded = columns.encode(TABLE)
    layout = columns.lay_out(encoded, size)
    memory = bytearray(size)
    done: list[int] = []
    columns.write(memoryview(memory), encoded, layout, done.append)
    return layout, columns.read(memoryview(memory)), done


@pytest.mark.parametrize("size", [1024, 1031, 4099, 65_537])
def test_as_many_whole_tables_as_fit(size: int) -> None:
    layout, table, done = stored(size)
    assert done == [1, 2, 3]
    assert layout.used_bytes <= size
    assert all(offset % 64 == 0 for offset in layout.offsets)
    assert table.tiles == layout.tiles
    assert table.rows == 5 * layout.tiles
    assert table.arrays["flight"].tolist() == [1545, 1714, 1141, 725, 461] * layout.tiles
    texts = [table.values["carrier"][code] for code in table.arrays["carrier"]]
    assert texts == ["UA", "AA", "UA", "B6", "AA"] * layout.tiles
    one_more = columns.lay_out(columns.encode(TABLE), size * 2)
    assert one_more.tiles > layout.tiles


def test_null_becomes_nan_and_whole_numbers_stay_exact() -> None:
    _, table, _ = stored(1024)
    delays = table.arrays["arr_delay"].tolist()[:5]
    assert math.isnan(delays[1])
    assert [delays[0], *delays[2:]] == [11, -25, 850, 0]
    assert table.arrays["flight"].dtype.itemsize == 2


def test_a_region_too_small_for_one_table_is_refused_with_both_sizes() -> None:
    with pytest.raises(InvalidSizeError, match=r"needs \d+ B, the region has 256 B"):
        columns.lay_out(columns.encode(TABLE), 256)


@pytest.mark.parametrize("junk", [b"", bytes(4096), b"\xff" * 4096, (5).to_bytes(8, "little") + b"[1,2]" + bytes(99)])
def test_something_else_is_refused(junk: bytes) -> None:
    with pytest.raises(NotARegionError, match="holds no table"):
        columns.read(memoryview(junk))
