"""Roots come, go, and may be out of reach. Remembered facts about a root must not outlive the root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mshare
from mshare.testing.processes import in_child

AS_NOBODY = """
import os, mshare
os.setgid(65534); os.setuid(65534)
mshare.create("by-nobody", 4096).close()
mshare.attach("by-nobody").close()
mshare.unlink("by-nobody")
"""


def test_a_region_in_a_root_that_is_new_is_found(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world / "other"
    (other / "shm").mkdir(parents=True)
    mshare.create("here", 4096).close()
    mshare.attach("here").close()
    monkeypatch.setenv("MSHARE_ROOT", str(other))
    with pytest.raises(mshare.RegionNotFoundError):
        mshare.attach("here")
    mshare.create("there", 4096).close()
    mshare.attach("there").close()
    monkeypatch.setenv("MSHARE_ROOT", str(world))
    mshare.attach("here").close()


def test_a_file_system_mounted_over_a_remembered_root_is_looked_at_anew(world: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mshare.create("below", 4096).close()
    mshare.attach("below").close()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,size=1m", "none", str(world / "shm")], check=True)
    try:
        with pytest.raises(mshare.RegionNotFoundError):
            mshare.attach("below")
        mshare.create("above", 4096).close()
        mshare.attach("above").close()
    finally:
        subprocess.run(["umount", str(world / "shm")], check=True)
    with pytest.raises(mshare.RegionNotFoundError):
        mshare.attach("above")
    mshare.attach("below").close()


def test_a_hugetlbfs_out_of_reach_is_none(hugetlb_world: Path) -> None:
    """Root's private mounts must not stop other users: the mount table shows these mounts, and no path reaches them."""
    hugetlb_world.chmod(0o700)
    environment = {key: value for key, value in os.environ.items() if key != "MSHARE_ROOT"}
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], env=environment, capture_output=True, text=True, check=False
    )
    hugetlb_world.chmod(0o755)
    assert run.returncode == 0, run.stderr


def test_a_root_that_privilege_was_dropped_for_is_passed_over_and_nothing_leaks(hugetlb_world: Path) -> None:
    """A process remembers a root as root, and cannot reach the root as another user, in either order of the roots."""
    mshare.create("in-shm", 4096, backend="shm", mode=0o666).close()
    mshare.create("in-hugetlb", 4096, backend="hugetlb", mode=0o666).close()

    def drop_and_attach(closed: str, name: str) -> int:
        mshare.attach(name).close()
        (hugetlb_world / closed).chmod(0o700)
        try:
            os.seteuid(65534)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                mshare.attach(name).close()
            return len(os.listdir("/proc/self/fd")) - before
        finally:
            os.seteuid(0)
            (hugetlb_world / closed).chmod(0o1777)

    assert in_child(lambda: drop_and_attach("hugetlb", "in-shm")).value == 0
    assert in_child(lambda: drop_and_attach("shm", "in-hugetlb")).value == 0
