"""The version stands in five places, and they agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import mshare

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("kernel/dkms.conf", r'^PACKAGE_VERSION="(.*)"$'),
        ("kernel/main.c", r'^MODULE_VERSION\("(.*)"\);$'),
        ("CHANGELOG.md", r"^## ([0-9]\S*)"),
    ],
)
def test_the_versions_agree(file: str, pattern: str) -> None:
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == mshare.__version__


def test_the_distribution_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == mshare.__version__
