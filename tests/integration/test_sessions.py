"""Sessions in docs/cli.md whose output depends on no machine are as they are printed today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYWHERE_THE_SAME = ("mshare plan ", "mshare scan --from tests/data/", "mshare scan --pid 4194305")


def sessions() -> list[tuple[str, str]]:
    """Return each command of a session with what follows it in the page."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = (part.partition("\n") for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
    return [(command, output) for command, _, output in commands if command.startswith(EVERYWHERE_THE_SAME)]


@pytest.mark.parametrize(("command", "output"), sessions(), ids=lambda text: text.partition("\n")[0])
def test_the_session_is_what_the_command_prints(command: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.stdout + (f"[exit {done.returncode}]\n" if done.returncode else "") == output


def test_there_are_sessions() -> None:
    assert {command.split()[1] for command, _ in sessions()} == {"plan", "scan"}
