"""The modules that are loaded at the start. Times are in docs/results/start.md: no test depends on a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mshare
from mshare._tools.cli import COMMANDS

SOURCE = Path(mshare.__file__).parents[1]
HEAVY = {
    "dataclasses",
    "inspect",
    "typing",
    "re",
    "enum",
    "pathlib",
    "urllib",
    "socket",
    "selectors",
    "subprocess",
    "tempfile",
    "json",
    "array",
    "multiprocessing",
    "asyncio",
    "numpy",
    "mshare.sync",
}
"""Modules that take more time than all but the largest modules of the core, or belong to an extra."""
OTHERS = {"numpy", "pyarrow", "torch", "textual", "prometheus_client", "matplotlib", "jinja2", "hypothesis", "pydantic"}
"""The modules that other commands need."""


def loaded(program: str, *options: str) -> set[str]:
    """Return the modules at the end of a program, which prints them on standard error."""
    command = [sys.executable, *options, "-c", f"import sys\n{program}\nprint(*sys.modules, file=sys.stderr)"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return set(done.stderr.split())


def test_the_import_loads_nothing_heavy() -> None:
    """`-S -I`: imports of a virtual environment's .pth files are not ours."""
    modules = loaded(f"sys.path.insert(0, {str(SOURCE)!r}); import mshare", "-S", "-I")
    assert "mshare._core.region" in modules
    assert modules & HEAVY == set()


def test_the_command_s_first_module_loads_nothing() -> None:
    """Until it is there, Ctrl-C shows a traceback. `os`, which it uses, is loaded by `site` at Python's start."""
    before = loaded(f"sys.path.insert(0, {str(SOURCE)!r}); import os", "-S", "-I")
    after = loaded(f"sys.path.insert(0, {str(SOURCE)!r}); import os, _mshare_command", "-S", "-I")
    assert after - before == {"_mshare_command", "__future__"}


def test_the_import_is_complete(tmp_path: Path) -> None:
    """A program may lose access to the library's files, by its rights or its root, and only then use a name."""
    program = (
        f"sys.path.insert(0, {str(SOURCE)!r}); import mshare, socket\n"
        "sys.path.clear(); sys.path_importer_cache.clear(); before = set(sys.modules)\n"
        "with mshare.create_anonymous(4096) as region, region.handle() as handle:\n"
        "    here, there = socket.socketpair()\n"
        "    mshare.send_handle(here, handle)\n"
        "    mshare.attach(mshare.recv_handle(there), addr=mshare.ANYWHERE).close()\n"
        "mshare.regions()\n"
        "assert before == set(sys.modules), set(sys.modules) - before\n"
    )
    assert "mshare" in loaded(program, "-S", "-I")


def test_a_command_loads_no_other_command_and_no_extra(world: Path) -> None:
    modules = loaded("from mshare.__main__ import main; assert main(['ls']) == 0")
    assert "mshare._tools.cli.ls" in modules
    assert modules & OTHERS == set()
    assert modules & {f"mshare._tools.cli.{name}" for name in COMMANDS if name != "ls"} == set()
    assert modules & {"mshare._tools.collect", "mshare._tools.lab", "mshare._tools.scan", "mshare.measure"} == set()
