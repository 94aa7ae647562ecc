"""What may depend on what (the "General layout" comment in `mshare/__init__.py`), read from the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mshare

PACKAGE = Path(mshare.__file__).parent
ROOMS = ("_core", "_tools")
"""What holds parts and is none itself."""

PURE = (
    "errors",
    "units",
    "geometry",
    "record",
    "procfs",
    "model",
    "table",
    "show",
    "plan",
    "findings",
    "scan",
    "page",
    "top/rows",
    "exporter/objects",
)
PURE_LAB = ("scale", "run", "kernel_log", "show")
"""Of the package `lab`."""
OS_LAYER = {"os", "ctypes", "fcntl", "mmap", "socket", "subprocess", "signal", "linux"}
DEPENDENCIES = {"typer", "rich", "textual", "prometheus_client", "numpy", "pyarrow", "hypothesis", "pytest"}

MAY_IMPORT = {
    "linux": {"procfs", "geometry"},
    "backend": {"errors", "units", "geometry", "record", "linux"},
    "backends": {"backend", "errors", "units", "geometry", "procfs", "record", "linux"},
    "mapping": {"errors", "units", "geometry", "procfs", "linux"},
    "registry": {"errors", "procfs", "record", "backends", "linux"},
    "handle": {"errors", "units", "record", "linux", "registry"},
    "handover": {"errors", "linux", "handle"},
    "region": {"errors", "units", "record", "linux", "mapping", "registry", "handle"},
    "attachment": {
        "errors",
        "units",
        "geometry",
        "procfs",
        "record",
        "linux",
        "mapping",
        "registry",
        "handle",
        "region",
    },
    "creation": {
        "errors",
        "units",
        "geometry",
        "procfs",
        "record",
        "linux",
        "backend",
        "backends",
        "mapping",
        "registry",
        "handle",
        "region",
        "attachment",
    },
    "removal": {"errors", "procfs", "record", "linux", "registry", "units"},
    "calls": {"errors", "registry", "removal", "creation", "region", "attachment"},
    "measure": {"errors", "geometry", "linux", "creation", "attachment", "removal"},
    "lab": {
        "errors",
        "units",
        "geometry",
        "procfs",
        "table",
        "linux",
        "creation",
        "attachment",
        "removal",
        "measure",
    },
}
"""For each part of the core, the parts of mshare it may import."""


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Return what a module imports when it is loaded: (parts of mshare, top-level names from outside)."""
    inside, outside = set(), set()
    own = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*own[: len(own) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                inside.add(next(each for each in [*base, alias.name] if each not in ROOMS))
    return inside, outside


def modules(part: str) -> list[Path]:
    found = [path for room in (".", *ROOMS) for path in (PACKAGE / room).glob(f"{part}.py")]
    return found or sorted(path for room in (".", *ROOMS) for path in (PACKAGE / room / part).rglob("*.py"))


@pytest.mark.parametrize("part", PURE)
def test_pure_modules_do_not_touch_the_operating_system(part: str) -> None:
    for path in modules(part):
        inside, outside = imports(path)
        assert not outside & OS_LAYER, path
        assert inside <= set(PURE), path


@pytest.mark.parametrize("part", PURE_LAB)
def test_pure_modules_of_the_lab_do_not_touch_the_operating_system(part: str) -> None:
    path = PACKAGE / "_tools" / "lab" / f"{part}.py"
    inside, outside = imports(path)
    assert not outside & OS_LAYER
    assert inside <= {*PURE, "lab"}
    siblings = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    assert not siblings & {"zygote", "mechanisms", "creator", "limit", "fleet", "sga", "picture"}


def test_the_zygote_carries_nothing_of_mshare() -> None:
    assert imports(PACKAGE / "_tools" / "lab" / "zygote.py")[0] == set()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_dependencies_run_one_way(part: str) -> None:
    assert modules(part)
    for path in modules(part):
        inside, outside = imports(path)
        assert inside <= MAY_IMPORT[part] | {part}, path
        assert not outside & (DEPENDENCIES - {"numpy"}), path


def test_the_core_loads_without_any_dependency() -> None:
    """`import mshare` must work where only Python is installed: `-S -I` hides site-packages."""
    import subprocess
    import sys

    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import mshare; print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "mshare._core.region" in loaded
    assert "resource_tracker" not in loaded
    assert "multiprocessing" not in loaded
