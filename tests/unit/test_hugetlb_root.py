"""The default choice of a hugetlbfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare._core.backends import hugetlb


def test_only_the_usual_place_is_taken(hugetlb_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another hugetlbfs belongs to another program, and ends with that program."""
    monkeypatch.delenv("MSHARE_ROOT")
    assert hugetlb.Hugetlb().root() in (None, "/dev/hugepages")
    monkeypatch.setattr(hugetlb, "_DEFAULT", str(hugetlb_world / "shm"))  # a directory, as some containers have it
    assert hugetlb.Hugetlb().root() is None
    assert "mount -t hugetlbfs" in hugetlb.Hugetlb().availability().remedy
    monkeypatch.setattr(hugetlb, "_DEFAULT", str(hugetlb_world / "hugetlb"))
    assert hugetlb.Hugetlb().root() == str(hugetlb_world / "hugetlb")
