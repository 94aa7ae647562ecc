"""CPython's own tests of shared memory pass with the classes of `mshare.shared_memory` in the standard ones' place.

The tests are those of the installed interpreter, and run in child processes, with each start method. The interpreter is
this one, or those that `make test-cpython` names in $MSHARE_CPYTHONS. A virtual environment whose `.pth` file calls
`install` makes every process of the tests use our classes, also those that are started with `-E` or `-I`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mshare

METHODS = ("fork", "spawn", "forkserver")
INTERPRETERS = os.environ.get("MSHARE_CPYTHONS", "").split() or [sys.executable]

DIFFERENT = {
    "test_shared_memory_cleaned_after_process_termination": (
        "the resource tracker removes a segment when a process that made or attached the segment is killed; ours "
        "outlives every process, and `mshare gc` removes orphans"
    ),
    "test_shared_memory_tracking": (
        "a process that has attached a segment removes it at its exit (cpython #82300); ours stays for all others"
    ),
    "test_resource_tracker": (
        "the resource tracker removes segments of a killed process and prints that they leaked; ours are not registered"
    ),
}
"""The tests that cannot hold, because what they demand is a complaint that mshare answers, with the reasons.
docs/shared-memory.md has the same list."""

PROGRAM = f"""
import json, os, sys, unittest
from test import _test_multiprocessing as tests, test_genericalias

tests.install_tests_in_module_dict(globals(), os.environ["START_METHOD"])

if __name__ == "__main__":
    assert tests.shared_memory.SharedMemory.__module__ == "mshare.shared_memory"
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite()
    for test in load(WithProcessesTestSharedMemory):
        if test._testMethodName not in {sorted(DIFFERENT)!r}:
            suite.addTest(test)
    suite.addTests(load(test_genericalias.BaseTest))
    setUpModule()
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    tearDownModule()
    problems = [str(test) for test, _ in result.failures + result.errors + result.skipped]
    names = [name for kind in (WithProcessesTestSharedMemory, TestResourceTracker) for name in dir(kind)]
    print(json.dumps([result.testsRun, problems, sorted(set({sorted(DIFFERENT)!r}) & set(names))]))
"""


def environment(python: str, directory: Path) -> Path:
    """Return the interpreter of a new virtual environment in which every process uses our classes."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(directory)], check=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    source = Path(mshare.__file__).parents[1]
    (packages / "install.pth").write_text(f"{source}\nimport mshare.shared_memory; mshare.shared_memory.install()\n")
    return directory / "bin" / "python"


def start(python: Path, program: Path, method: str, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(python), str(program)],
        env={**os.environ, "START_METHOD": method, "MSHARE_ROOT": str(root), "TMPDIR": str(program.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_cpython_s_own_tests_pass(interpreter: str, world: Path, tmp_path: Path) -> None:
    """The tests run with all start methods at once, because they wait most of the time."""
    if subprocess.run(
        [interpreter, "-c", "import test._test_multiprocessing"], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"{interpreter} was installed without its own tests (test._test_multiprocessing)")
    python, program = environment(interpreter, tmp_path / "venv"), tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = [start(python, program, method, world) for method in METHODS]
    try:
        for process in started:
            output, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
            ran, problems, different = json.loads(output.splitlines()[-1])
            assert problems == [], errors
            assert ran >= 30
            assert {*DIFFERENT} - {*different} <= {"test_shared_memory_tracking"}  # new in 3.13
            assert "Traceback" not in errors
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert mshare.regions() == []


def test_the_page_has_the_same_list() -> None:
    page = (Path(__file__).parents[2] / "docs" / "shared-memory.md").read_text()
    for name in DIFFERENT:
        assert f"`{name}`" in page
