"""Programs in C that the tests start, compiled in the guest."""

import re
import subprocess
from pathlib import Path


class Program:
    """A program of all files in a directory of C: program(*args) is its output."""

    def __init__(self, source: Path, directory: Path, *shared: Path) -> None:
        """Compile the source into the directory; `shared`: further directories of C that are part of the program."""
        path = directory / source.name
        sources = [file for each in (source, *shared) for file in sorted(each.glob("*.c"))]
        subprocess.run(["gcc", "-O1", "-Wall", "-Wno-unused-result", "-pthread", "-o", path, *sources], check=True)
        self.program = str(path)

    def __call__(self, *args: object, timeout: float = 300) -> str:
        """Run the program, which must succeed within the timeout, in seconds."""
        # Without randomised addresses two runs need the same private page tables.
        command = ["setarch", "-R", self.program, *map(str, args)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def figures(text: str) -> dict[str, int]:
    """The numbers in a program's output, such as "pages=5 faults=0", by name."""
    return {key: int(value) for key, value in re.findall(r"(\w+)=(-?\d+)", text)}
