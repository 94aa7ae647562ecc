"""Two interpreters of one process: each has its own table, and both share the addresses of the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE
from mshare.testing.processes import in_child
from tests.helpers.worlds import window_mappings


def in_another_interpreter(program: str) -> None:
    """Run `program` in a new interpreter, and end that interpreter. Raises the program's error."""
    interpreters: Any = pytest.importorskip("_xxsubinterpreters", reason="Python 3.13 and newer call it otherwise")
    other = interpreters.create()
    try:
        interpreters.run_string(other, program)
    finally:
        interpreters.destroy(other)


def test_another_interpreter_attaches_elsewhere(world: Path) -> None:
    program = """
import mshare
try:
    mshare.attach("r")
except mshare.AddressTakenError as error:
    assert "this very region, mapped by another interpreter" in error.problem, error
    assert "mshare.ANYWHERE" in error.hint, error
else:
    raise AssertionError("attached twice at one address")
kept = mshare.attach("r", addr=mshare.ANYWHERE)
kept.buf[0] = 7
with mshare.create("new", 4096, backend="shm") as region:
    region.buf[0] = 1
mshare.unlink("new")
"""

    def run() -> tuple[int, int, list[str]]:
        with mshare.create("r", PAGE, backend="shm") as region:
            in_another_interpreter(program)  # at the end of the interpreter `kept` has gone
            return region.buf[0], len(window_mappings()), [info.name for info in mshare.regions()]

    assert in_child(run).value == [7, 1, ["r"]]


def test_what_one_interpreter_lets_go_the_other_can_have(world: Path) -> None:
    def run() -> tuple[bool, bool]:
        in_another_interpreter("import mshare; mshare.create('r', 4096, backend='shm').buf[0] = 7")
        first = mshare.regions()[0].orphan
        with mshare.attach("r") as region:
            assert region.buf[0] == 7
            assert region.info().pids == (os.getpid(),)
        in_another_interpreter("import mshare; mshare.attach('r').close()")
        return first, mshare.mshare_unlink("r")

    assert in_child(run).value == [True, True]
