"""The arithmetic of projections: known slopes in, known bytes out."""

from __future__ import annotations

from mshare._core.geometry import page_tables
from mshare._core.units import GIB, KIB, MIB
from mshare.measure import Slope


def test_private_tables_of_4_kib_leaves_are_the_case_that_started_it() -> None:
    slope = Slope(vmpte_bytes_per_gib=2 * MIB, page_tables_bytes_per_gib=2 * MIB, processes=4, is_shared=False)
    assert slope.projected_bytes(300 * GIB, 1_500) == 1_500 * 300 * 2 * MIB
    assert slope.projected_bytes(300 * GIB, 1_500) // GIB == 878


def test_private_tables_of_2_mib_leaves_agree_with_geometry() -> None:
    slope = Slope(vmpte_bytes_per_gib=4 * KIB, page_tables_bytes_per_gib=0, processes=4, is_shared=False)
    by_geometry = page_tables(301 * GIB, leaf_size=2 * MIB).bytes - page_tables(GIB, leaf_size=2 * MIB).bytes
    assert slope.projected_bytes(300 * GIB, 7) == 7 * by_geometry


def test_shared_tables_are_counted_once_whatever_vmpte_says() -> None:
    slope = Slope(vmpte_bytes_per_gib=4 * KIB, page_tables_bytes_per_gib=KIB, processes=4, is_shared=True)
    assert slope.projected_bytes(300 * GIB, 1_500) == slope.projected_bytes(300 * GIB, 1) == 300 * 4 * KIB
