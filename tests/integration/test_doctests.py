"""The examples in the package's docstrings run unchanged, each in a private world."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import mshare

SOURCE = Path(mshare.__file__).parent
EXAMPLES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text() and path.parent != SOURCE / "torch"
]
"""Those of `mshare.torch` run in tests/torch."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_module_run(name: str, world: Path) -> None:
    result = doctest.testmod(import_module(name), raise_on_error=False, verbose=False)
    assert result.failed == 0
    assert mshare.regions() == []


def test_there_are_examples() -> None:
    assert {"mshare", "mshare.measure"} <= set(EXAMPLES)
