"""The programs of examples/python, each run as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NEED_TORCH = {"weights"}
"""Programs that run in tests/torch."""
PROGRAMS = [
    path
    for path in sorted((Path(__file__).parents[2] / "examples" / "python").glob("*.py"))
    if path.stem not in NEED_TORCH
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_does_what_it_says_and_leaves_nothing(world: Path, program: Path) -> None:
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout
    assert [path.name for root in world.iterdir() for path in root.iterdir()] == []
