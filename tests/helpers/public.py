"""Names of a module that are public: in docs/api.md, with types and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SECTIONS = {part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ")[1:]}


def rows(section: str) -> list[str]:
    """Return the names in the first column of a section's table."""
    return re.findall(r"^\| `(\w+)(?:\(\))?` \|", SECTIONS[section], re.MULTILINE)


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


def is_typed(function: Callable[..., Any]) -> bool:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    return all(each.annotation is not each.empty for each in parameters) and (
        signature.return_annotation is not signature.empty
    )


def assert_typed_with_docstrings(module: ModuleType) -> None:
    """Every name of a module's `__all__` has types and a docstring."""
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
