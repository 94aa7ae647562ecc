"""Fixtures of the tests of `mshare run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mshare._tools.preload import library
from tests.helpers.preload import compile_all


@pytest.fixture(scope="session")
def built() -> Path:
    """The preload library, in this user's cache."""
    return library.ensure()


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory with the programs of tests/preload, compiled. Everybody may execute them."""
    with TemporaryDirectory(prefix="mshare-programs-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        compile_all(Path(place))
        yield Path(place)
