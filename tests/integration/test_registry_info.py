"""Looking one region up, and what `gc` may take for an orphan."""

from __future__ import annotations

from pathlib import Path

import pytest

import mshare
from mshare import registry, removal


def test_one_region_can_be_looked_up_without_attaching(backend: str) -> None:
    with mshare.create("seen", 5000, backend=backend) as region:
        assert registry.region_info("seen") == region.info()
    assert registry.region_info("seen") == mshare.regions()[0]
    mshare.unlink("seen")
    with pytest.raises(mshare.RegionNotFoundError):
        registry.region_info("seen")


def test_gc_spares_a_newer_region_of_the_same_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mshare.create("again", 4096).close()
    old = removal.orphans()
    mshare.unlink("again")
    mshare.create("again", 8192).close()
    monkeypatch.setattr(removal, "orphans", lambda **_: old)
    assert mshare.gc() == []
    assert mshare.regions()[0].size == 8192
