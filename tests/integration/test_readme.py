"""The README's Python runs unchanged, and its first 30 lines have the facts that a visitor needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mshare

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_of_the_readme_runs_from_top_to_bottom(world: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"\[0\.5 0\.5 0\.5\] \(\d+,\)", first)
    assert second == f"weights {1 << 28} () True"
    assert mshare.regions() == []


@pytest.mark.parametrize("what", ["```python\nimport mshare", "](docs/results/", "pip install", "Status: 0.1"])
def test_the_first_30_lines_say(what: str) -> None:
    assert what in "\n".join(README.splitlines()[:30])
