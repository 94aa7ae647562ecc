"""Two places name the kernel series that the module's build admits, and agree with a third."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
KBUILD = (ROOT / "kernel" / "Kbuild").read_text()
DKMS = (ROOT / "kernel" / "dkms.conf").read_text()


def audited() -> set[str]:
    """The series that Kbuild lets pass."""
    (series,) = re.findall(r"^MSHARE_SERIES := (.*)$", KBUILD, re.M)
    return set(series.split())


def test_dkms_builds_for_the_audited_series_only() -> None:
    (pattern,) = re.findall(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', DKMS, re.M)
    for series in audited():
        assert re.search(pattern, f"{series}.0-1-amd64")
    assert not any(re.search(pattern, release) for release in ("6.10.1", "6.18.3", "7.20.1", "7.4.0-amd64", "16.1.0"))
    assert len(re.findall(r"\d+\\\.\d+", pattern)) == len(audited())


def test_the_audit_covers_the_series_that_build() -> None:
    text = (ROOT / "docs" / "audit.md").read_text()
    assert audited()
    for series in audited():
        assert re.search(rf"\b{re.escape(series)}\.\d+", text), f"docs/audit.md names no release of {series}"
