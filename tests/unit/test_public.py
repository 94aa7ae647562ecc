"""The public names: `__all__`, the names in docs/api.md, and the typed names are the same."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

import mshare
import mshare.arrow
import mshare.measure
import mshare.numpy
import mshare.shared_memory

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SECTIONS = {part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ")[1:]}
SYNC = (mshare.Lock, mshare.RWLock, mshare.Semaphore, mshare.Event, mshare.Counter)
CLASSES = (mshare.Region, mshare.Handle, mshare.RegionInfo, mshare.HeldRegion, *SYNC)


MODULES = (mshare.arrow, mshare.measure, mshare.numpy, mshare.shared_memory)


def rows(section: str) -> list[str]:
    """Return the names in the first column of a section's table."""
    return re.findall(r"^\| `(\w+)(?:\(\))?` \|", SECTIONS[section], re.MULTILINE)


def errors() -> list[str]:
    """Return the names in the last paragraph about errors."""
    return re.findall(r"`(\w+)`", SECTIONS["Errors"].strip().rpartition("\n\n")[2])


def members(kind: type) -> set[str]:
    return {name for name in {*vars(kind), *vars(kind).get("__annotations__", {})} if not name.startswith("_")}


def functions(kind: type) -> Iterator[Callable[..., Any]]:
    for name in members(kind):
        member = inspect.getattr_static(kind, name)
        if isinstance(member, (classmethod, staticmethod)):
            yield member.__func__
        elif isinstance(member, property) and member.fget is not None:
            yield member.fget
        elif inspect.isfunction(member):
            yield member


def is_error(name: str) -> bool:
    value = getattr(mshare, name)
    return isinstance(value, type) and issubclass(value, BaseException)


def is_typed(function: Callable[..., Any]) -> bool:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    return all(each.annotation is not each.empty for each in parameters) and (
        signature.return_annotation is not signature.empty
    )


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
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            assert value.__doc__, name
            assert is_typed(value), name
        elif isinstance(value, type):
            assert value.__doc__, name
            for function in functions(value):
                assert is_typed(function), f"{name}.{function.__name__}"
                assert function.__doc__ or value.__module__.startswith("mshare.measure"), f"{name}.{function.__name__}"
    assert set(get_type_hints(mshare.RegionInfo)) < members(mshare.RegionInfo)
