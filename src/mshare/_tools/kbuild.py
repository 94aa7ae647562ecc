"""One build of a kernel module by make: which files of the source are products, the environment, and the output.
May depend on: nothing.

`mshare module` builds for the kernel that runs, and the package `vm` of the repository builds for the kernels of its
guests. The wheel must carry the builder and does not carry `vm`, so the builder lies here and `vm` imports this module
alone of mshare. This module therefore needs nothing but Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

PRODUCTS = ("*.o", "*.ko", "*.mod", "*.mod.c", ".*", "modules.order", "Module.symvers")
"""The files that a build leaves in the directory of the source, as patterns of names."""
_TOOLS = ("make", "gcc")


class Build(NamedTuple):
    """A build that has ended."""

    command: str
    """As one types it in a shell."""
    status: int
    """0 if make succeeded."""
    output: str
    """The output of make and the compiler, on both streams."""

    @property
    def telling(self) -> str:
        """The line of the output that most probably says why the build failed; empty without output."""
        lines = self.output.splitlines()
        errors = [line for line in lines if "rror" in line or "not found" in line] or lines[-1:]
        return errors[0].strip() if errors else ""


def missing_tools() -> list[str]:
    """Return the programs that every build needs and that are not in PATH."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def environment() -> dict[str, str]:
    """Return this process's environment without the flags and the job server of a make that may have started it."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def copy(source: Path, tree: Path) -> None:
    """Copy the source of a module to the new directory `tree`, without what builds have left in the source."""
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns(*PRODUCTS))


def make(directory: Path, *arguments: str) -> Build:
    """Run make in `directory` on all CPUs and return how the build ended. Takes about a minute for our module."""
    command = ["make", "-C", str(directory), f"-j{os.cpu_count() or 1}", *arguments]
    done = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, errors="replace"
    )
    return Build(shlex.join(command), done.returncode, done.stdout)
