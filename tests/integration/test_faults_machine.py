"""Things that a machine may lack or forbid. Each gives an error that names the thing, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import mshare
from mshare._core.geometry import PAGE
from mshare._core.linux.mounts import private
from mshare.testing.conformance import files
from mshare.testing.processes import in_child
from tests.helpers.worlds import STRANGER, needs_root, small_tmpfs, window_mappings


def test_a_limit_on_file_sizes_is_named(world: Path) -> None:
    def limited() -> list[str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        mshare.create("small", 100 * PAGE).close()
        with pytest.raises(mshare.NoSpaceError, match="RLIMIT_FSIZE"):
            mshare.create("large", 4 << 20)
        return window_mappings()

    assert in_child(limited).value == []
    assert [path.name for path in files()] == ["small"]


@needs_root
def test_a_file_system_without_inodes_is_named(world: Path) -> None:
    with small_tmpfs(world / "shm", "64m,nr_inodes=3"):  # the directory, and two files
        mshare.create("one", PAGE).close()
        mshare.create("two", PAGE).close()
        with pytest.raises(mshare.NoSpaceError, match="no more of them"):
            mshare.create("three", PAGE)
        assert mshare.mshare_unlink("one")
        mshare.create("three", PAGE).close()
        assert [info.name for info in mshare.regions()] == ["three", "two"]


@needs_root
def test_a_read_only_root_is_named_and_what_it_holds_can_be_read(world: Path) -> None:
    with small_tmpfs(world / "shm", "64m"):
        mshare.create("r", PAGE, fill=lambda view: view.__setitem__(0, 7)).close()
        subprocess.run(["mount", "-o", "remount,ro", str(world / "shm")], check=True)
        with pytest.raises(mshare.BackendUnavailableError, match="read-only") as raised:
            mshare.create("new", PAGE, backend="shm")
        assert "remount,rw" in raised.value.hint
        with mshare.attach("r", readonly=True) as region:
            assert region.buf[0] == 7
        calls: list[Callable[[], object]] = [
            lambda: mshare.attach("r"),
            lambda: mshare.mshare("r", None, PAGE, os.O_RDWR),
            lambda: mshare.unlink("r"),
            lambda: mshare.mshare_unlink("r"),
            mshare.gc,
        ]
        for call in calls:
            with pytest.raises(mshare.BackendUnavailableError, match=r"read-only: sudo mount -o remount,rw"):
                call()
        assert [info.name for info in mshare.regions()] == ["r"]


@needs_root
def test_a_read_only_root_is_named_also_for_a_mode_that_denies_writing_to_its_owner(world: Path) -> None:
    with small_tmpfs(world / "shm", "64m"):
        mshare.create("r", PAGE, mode=0o400).close()
        subprocess.run(["mount", "-o", "remount,ro", str(world / "shm")], check=True)
        with pytest.raises(mshare.BackendUnavailableError, match="read-only"):
            mshare.unlink("r")


@needs_root
def test_gc_takes_what_it_can_where_one_of_two_roots_is_read_only(hugetlb_world: Path) -> None:
    mshare.create("gone", PAGE, backend="hugetlb").close()
    with small_tmpfs(hugetlb_world / "shm", "64m"):
        mshare.create("kept", PAGE, backend="shm").close()
        subprocess.run(["mount", "-o", "remount,ro", str(hugetlb_world / "shm")], check=True)
        assert [info.name for info in mshare.gc()] == ["gone"]
        with pytest.raises(mshare.BackendUnavailableError, match="read-only"):
            mshare.gc()


@needs_root
def test_a_file_that_something_is_mounted_on_is_no_region(world: Path) -> None:
    mshare.create("r", PAGE).close()
    planted = world / "shm" / "mounted"
    planted.touch()
    other = world / "elsewhere"
    other.mkdir()
    with small_tmpfs(other, "1m"):
        (other / "file").write_bytes((world / "shm" / "r").read_bytes())
        subprocess.run(["mount", "--bind", str(other / "file"), str(planted)], check=True)
        try:
            assert [info.name for info in mshare.regions()] == ["r"]
            with pytest.raises(mshare.NotARegionError, match="mounted on"):
                mshare.attach("mounted")
            with pytest.raises(mshare.NotARegionError, match="mounted on"):
                mshare.mshare("mounted", None, PAGE, os.O_CREAT | os.O_RDWR)
        finally:
            subprocess.run(["umount", str(planted)], check=True)


@needs_root
def test_a_root_that_may_be_searched_and_written_but_not_read(world: Path) -> None:
    (world / "shm").chmod(0o1733)

    def use() -> list[str]:
        with mshare.create("mine", PAGE) as region:
            region.buf[0] = 1
        mshare.attach("mine").close()
        listed = [info.name for info in mshare.regions()]
        assert mshare.mshare_unlink("mine")
        return listed

    assert in_child(use, uid=STRANGER).value == []
    assert files() == []


@needs_root
def test_without_proc_creating_is_refused_with_the_reason_and_attaching_works(world: Path) -> None:
    mshare.create("r", PAGE).close()

    def hide_proc() -> bool:
        assert private()
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
        with pytest.raises(mshare.BackendUnavailableError, match="no /proc"):
            mshare.create("new", PAGE)
        with mshare.attach("r") as region:
            region.buf[0] = 1
        for call in (mshare.regions, mshare.gc, lambda: mshare.unlink("r")):  # none could be sure which file it opens
            with pytest.raises(mshare.BackendUnavailableError, match="no /proc"):
                call()
        return os.path.exists(world / "shm" / "r")

    assert in_child(hide_proc).value is True
