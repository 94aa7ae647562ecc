"""Looking one region up, and the regions that `gc` may take for orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

import mshare
from mshare._core import listing, removal
from mshare._core.geometry import PAGE, PMD


def test_one_region_can_be_looked_up_without_attaching(backend: str) -> None:
    with mshare.create("seen", 5000, backend=backend) as region:
        assert listing.region_info("seen") == region.info()
    assert listing.region_info("seen") == mshare.regions()[0]
    mshare.unlink("seen")
    with pytest.raises(mshare.RegionNotFoundError):
        listing.region_info("seen")


def test_the_memory_that_a_region_holds(backend: str) -> None:
    """`st_blocks` is read here from the file, and by the library through its own descriptor."""
    with mshare.create("seen", 5 * PMD + 5000, backend=backend) as region:
        file_bytes = Path(region.info().path).stat().st_size
        assert region.info().memory_bytes == file_bytes
        assert (region.info().shared_table_bytes, region.info().charged_bytes) == (None, None)
        mshare.unlink("seen")
        assert region.info().memory_bytes == file_bytes


def test_the_memory_of_a_sparse_region_grows(world: Path) -> None:
    with (
        mshare.create("seen", 64 * PMD, backend="shm", reserve=False) as named,
        mshare.create_anonymous(64 * PMD, backend="shm", reserve=False) as nameless,
    ):
        for region in (named, nameless):
            before = region.info().memory_bytes
            assert before < PMD
            region.buf[::PMD] = b"x" * 64
            assert region.info().memory_bytes == before + 64 * PAGE
        assert listing.region_info("seen").memory_bytes == named.info().memory_bytes


def test_gc_spares_a_newer_region_of_the_same_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mshare.create("again", 4096).close()
    old = removal.orphans()
    mshare.unlink("again")
    mshare.create("again", 8192).close()
    monkeypatch.setattr(removal, "orphans", lambda **_: old)
    assert mshare.gc() == []
    assert mshare.regions()[0].size == 8192
