"""The public names: `__all__`, the names in docs/api.md, and the typed names are the same."""

from __future__ import annotations

import re
from importlib.resources import files
from types import ModuleType
from typing import get_type_hints

import pytest

import mshare
import mshare.arrow
import mshare.dask
import mshare.measure
import mshare.numpy
import mshare.shared_memory
from tests.helpers.public import SECTIONS, assert_typed_with_docstrings, members, rows

SYNC = (mshare.Lock, mshare.RWLock, mshare.Semaphore, mshare.Event, mshare.Counter)
CLASSES = (mshare.Region, mshare.Handle, mshare.RegionInfo, mshare.HeldRegion, *SYNC)
MODULES = (mshare.arrow, mshare.dask, mshare.measure, mshare.numpy, mshare.shared_memory)
"""All but `mshare.torch`, which tests/torch looks at."""


def errors() -> list[str]:
    """Return the names in the last paragraph about errors."""
    return re.findall(r"`(\w+)`", SECTIONS["Errors"].strip().rpartition("\n\n")[2])


def is_error(name: str) -> bool:
    value = getattr(mshare, name)
    return isinstance(value, type) and issubclass(value, BaseException)


def test_what_can_be_had_is_what_is_listed() -> None:
    had = {name for name in dir(mshare) if name[0] != "_" and not isinstance(getattr(mshare, name), ModuleType)}
    assert had == set(mshare.__all__)


def test_what_is_listed_is_what_is_documented() -> None:
    assert sorted(errors()) == sorted(filter(is_error, mshare.__all__))
    others = [*rows("Functions"), *(kind.__name__ for kind in CLASSES), "ANYWHERE"]
    assert sorted(others) == sorted(name for name in mshare.__all__ if not is_error(name))
    assert {kind.__name__ for kind in CLASSES} <= set(SECTIONS)
    assert "`ANYWHERE`" in SECTIONS["Functions"]
    for module in MODULES:
        assert sorted(rows(module.__name__)) == sorted(module.__all__)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_member_is_documented(kind: type) -> None:
    assert sorted(rows(kind.__name__)) == sorted(members(kind))


@pytest.mark.parametrize("module", [mshare, *MODULES])
def test_everything_that_is_listed_is_typed_and_has_a_docstring(module: ModuleType) -> None:
    assert files("mshare").joinpath("py.typed").is_file()
    assert_typed_with_docstrings(module)
    assert set(get_type_hints(mshare.RegionInfo)) < members(mshare.RegionInfo)
