"""A newer region replaces a region of the same name while other processes still use the older one."""

from __future__ import annotations

from pathlib import Path

import pytest

import mshare
from mshare._core.geometry import PAGE, PUD, WINDOW
from mshare.testing.processes import Nursery

VERSIONS = 7


def test_a_process_has_all_versions_of_a_name_attached(world: Path) -> None:
    """Each version is made by a process that has none of the others mapped. Two of 7 meet once in 1,500 runs, so one
    such meeting is allowed."""
    held: list[mshare.Region] = []
    met = 0
    for version in range(VERSIONS):
        with Nursery() as nursery:
            worker = nursery.start()
            assert worker.do("create", number=1, name="model", size=PAGE, backend="shm").error is None
            worker.do("store", number=1, offset=0, value=version)
        try:
            held.append(mshare.attach("model"))
        except mshare.AddressTakenError:
            met += 1
            held.append(mshare.attach("model", addr=mshare.ANYWHERE))
        mshare.unlink("model")
    assert [region.buf[0] for region in held] == list(range(VERSIONS))
    assert met < 2
    for region in held:
        region.close()


def test_an_older_version_in_the_way_is_called_that(world: Path) -> None:
    where = WINDOW[0] + 7 * PUD
    with mshare.create("model", PAGE, addr=where, backend="shm") as older, Nursery() as nursery:
        mshare.unlink("model")
        assert nursery.start().do("create", number=1, name="model", size=PAGE, addr=where, backend="shm").error is None
        with pytest.raises(mshare.AddressTakenError, match="an older version of region 'model'") as caught:
            mshare.attach("model")
        assert "close that one first" in caught.value.hint
        assert "mshare.ANYWHERE" in caught.value.hint
        with mshare.attach("model", addr=mshare.ANYWHERE) as newer:
            assert newer.addr != older.addr
        older.close()
        with mshare.attach("model") as newer:
            assert newer.addr == where


def test_another_name_in_the_way_is_no_older_version(world: Path) -> None:
    where = WINDOW[0] + 7 * PUD
    with Nursery() as nursery:
        assert nursery.start().do("create", number=1, name="model", size=PAGE, addr=where, backend="shm").error is None
    with mshare.create("other", PAGE, addr=where, backend="shm"):
        with pytest.raises(mshare.AddressTakenError, match="by region 'other'") as caught:
            mshare.attach("model")
        assert "older" not in str(caught.value)
