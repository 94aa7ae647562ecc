"""The tables in the docstring of `mshare._core.errors` have the right row for every error of every part."""

from __future__ import annotations

import errno
import pickle
import re
from importlib import import_module
from pkgutil import walk_packages
from traceback import format_exception_only

import mshare
from mshare._core import errors


def tables() -> dict[str, tuple[int, str, str]]:
    """Return, for each class, its errno, its other base class, and the module that defines the class."""
    rows: dict[str, tuple[int, str, str]] = {}
    place = False
    for line in (errors.__doc__ or "").splitlines():
        cells = re.split(r" {2,}", line)
        if cells[0] == "class":
            place = "defined in" in cells
        elif cells[0].endswith("Error") and len(cells) > 3:
            assert cells[0] not in rows
            rows[cells[0]] = getattr(errno, cells[1]), cells[2], cells[3].strip("`") if place else "mshare"
    return rows


def every_error() -> list[type[mshare.MshareError]]:
    """Return the errors but those of `mshare.torch`, which tests/torch looks at, where torch is."""
    for module in walk_packages(mshare.__path__, "mshare."):
        if not module.name.endswith("__main__") and not module.name.startswith("mshare.torch"):
            import_module(module.name)
    found, new = set[type[mshare.MshareError]](), [mshare.MshareError]
    while new:
        more = new.pop().__subclasses__()
        found.update(more)
        new += more
    ours = [kind for kind in found if kind.__module__.partition(".")[0] == "mshare"]
    return [kind for kind in ours if kind.__module__ != "mshare.torch"]  # the walk loads it where torch is installed


def builtin(kind: type[mshare.MshareError]) -> str:
    return next((base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"), "-")


def module(kind: type) -> str:
    """Return the module of a class as the tables name it."""
    return re.sub(r"^mshare\.(_core\.|_tools\.)?", "", kind.__module__)


def test_the_tables_are_complete_and_right() -> None:
    here = {name: row for name, row in tables().items() if row[2] != "torch"}
    assert here == {kind.__name__: (kind.code, builtin(kind), module(kind)) for kind in every_error()}


def test_a_traceback_and_a_pickle_have_the_public_name() -> None:
    error = pickle.loads(pickle.dumps(mshare.NoSpaceError("no room", "make room")))
    assert isinstance(error, mshare.NoSpaceError)
    assert format_exception_only(error) == ["mshare.NoSpaceError: no room: make room\n"]
    assert b"_core" not in pickle.dumps(error)
