"""Which hugetlbfs is taken when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare.backends import hugetlb
from mshare.procfs import Mount


def test_a_mount_that_another_one_hides_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = Mount(tmp_path.stat().st_dev + 1, str(tmp_path / "gone"), "hugetlbfs", frozenset({"pagesize=2M"}))
    hidden = gone._replace(mount_point=str(tmp_path))
    monkeypatch.delenv("MSHARE_ROOT", raising=False)
    monkeypatch.setattr(hugetlb, "_has_pages", lambda: True)
    monkeypatch.setattr(hugetlb, "mounts", lambda _: [gone, hidden])
    assert hugetlb.Hugetlb().root() in (None, Path("/dev/hugepages"))
    there = hidden._replace(dev=tmp_path.stat().st_dev)
    monkeypatch.setattr(hugetlb, "mounts", lambda _: [gone, hidden, there])
    assert hugetlb.Hugetlb().root() in (tmp_path, Path("/dev/hugepages"))
    monkeypatch.setattr(hugetlb, "_has_pages", lambda: False)
    assert hugetlb.Hugetlb().root() is None
