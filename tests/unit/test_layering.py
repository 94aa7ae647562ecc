"""The sentence of each module about its dependencies agrees with its imports.

The sentence "May depend on: NAME, NAME." of a module's docstring names what the module imports: modules beside the
module, modules of an enclosing package or of `mshare._core` and `mshare._tools`, packages (for all of their modules),
and distributions that are not part of Python. A module without such a sentence is covered by the sentence of its
package; without either, the module imports nothing of the kind. A package's sentence bounds what all of its modules
import from outside the package. Imports for a type checker alone need not be named.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mshare

SOURCE = Path(mshare.__file__).parent.parent
REPOSITORY = Path(__file__).parent.parent.parent
ROOMS = {"mshare", "mshare._core", "mshare._tools", "mshare._tools.cli", "benchmarks"}
"""Packages that only hold parts. Their sentence is about their `__init__` only."""
DISTRIBUTIONS = {"mshare.numpy", "mshare.torch", "mshare.dask"}
"""Modules of ours that have the name of a distribution. A sentence that means such a module has its full name."""
OS_LAYER = {"os", "ctypes", "fcntl", "mmap", "socket", "subprocess", "signal"}
PURE = re.compile(r"\bPure(?! but)\b")
SENTENCE = re.compile(r"May depend on:\s+(.+?)\.(?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Module:
    """One module, as its text has it."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """The package that the module lies in; a package lies in itself."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def says(self) -> set[str] | None:
        """The names in the docstring's sentence, without the text in parentheses."""
        sentence = SENTENCE.search(self.docstring)
        if sentence is None:
            return None
        plain = re.sub(r"\([^)]*\)", "", sentence[1])
        return {name.strip() for name in plain.split(",")} - {"nothing"}

    def imports(self, typing: bool = False) -> set[str]:
        """Return the imports of the module: full names in this repository, the first part of all others."""
        found = set()
        for node in _statements(self.tree, typing):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = self.package.split(".")
                base = [] if node.level == 0 else above[: len(above) - node.level + 1]
                origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
                found |= {
                    next(n for n in (f"{origin}.{a.name}", origin) if n in MODULES or n == origin) for a in node.names
                }
        if self.package == self.name not in ROOMS:
            found = {name for name in found if not _covers(self.name, name)}
        ours = {name.partition(".")[0] for name in MODULES}
        return {name if name.partition(".")[0] in ours else name.partition(".")[0] for name in found}

    def means(self, name: str) -> str:
        """Return the full name of the module that the sentence calls `name`."""
        parts = self.package.split(".")
        enclosing = [".".join([*parts[:depth], name]) for depth in range(len(parts), -1, -1)]
        everywhere = [*enclosing, f"mshare._core.{name}", f"mshare._tools.{name}", f"mshare.{name}"]
        return next((full for full in everywhere if full in MODULES.keys() - (DISTRIBUTIONS - {name})), name)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _statements(node: ast.AST, typing: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if typing or not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _statements(child, typing)


def _modules() -> Iterator[Module]:
    for top in (SOURCE / "mshare", REPOSITORY / "benchmarks", REPOSITORY / "vm"):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            yield Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)


MODULES = {module.name: module for module in _modules()}


def _covers(named: str, imported: str) -> bool:
    return imported == named or (named != "mshare" and imported.startswith(f"{named}."))


def _foreign(names: set[str]) -> set[str]:
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_it_says(name: str) -> None:
    module = MODULES[name]
    said, imported = module.says, _foreign(module.imports())
    if said is not None:
        named = {module.means(each) for each in said}
        assert {i for i in imported if not any(_covers(n, i) for n in named)} == set(), "imported, but not named"
        used = module.imports(typing=True)
        unused = {n for n in named if not any(_covers(n, i) for i in used)}
        assert module.path.name == "__init__.py" or unused == set(), "named, but not imported"
    elif MODULES[module.package].says is None or module.package in ROOMS:
        assert imported == set(), "imported by a module that says nothing"


@pytest.mark.parametrize("name", [n for n, m in MODULES.items() if m.package == n and m.says is not None])
def test_a_package_imports_no_more_than_it_says(name: str) -> None:
    if name in ROOMS:
        return
    package = MODULES[name]
    named = {package.means(each) for each in package.says or ()}
    inside = [m for m in MODULES.values() if m.package == name]
    imported = {i for m in inside for i in _foreign(m.imports()) if not _covers(name, i)}
    assert {i for i in imported if not any(_covers(n, i) for n in named)} == set(), "imported, but not named"
    assert {n for n in named if not any(_covers(n, i) for i in imported)} == set(), "named, but not imported"


def test_dependencies_run_one_way() -> None:
    """No module needs itself at its load, and the packages have an order: _core, sync, shared_memory, numpy, arrow,
    torch, dask, measure, _tools, testing."""
    graph = {m.name: {i for i in m.imports() if i in MODULES} - {m.name} for m in MODULES.values()}
    tuple(TopologicalSorter(graph).static_order())
    libraries = ["mshare.shared_memory", "mshare.numpy", "mshare.arrow", "mshare.torch", "mshare.dask"]
    rooms = ["mshare._core", "mshare.sync", *libraries, "mshare.measure", "mshare._tools", "mshare.testing"]
    for position, room in enumerate(rooms):
        above = [
            (name, each)
            for name, imported in graph.items()
            if _covers(room, name) or name.startswith(f"{room}.")
            for each in imported
            if any(each.startswith(later) for later in rooms[position + 1 :])
        ]
        assert above == []


@pytest.mark.parametrize("name", [n for n, m in MODULES.items() if PURE.search(m.docstring)])
def test_pure_modules_do_not_touch_the_operating_system(name: str) -> None:
    imported = MODULES[name].imports()
    assert imported & OS_LAYER == set()
    assert {i for i in imported if i in MODULES and not PURE.search(MODULES[i].docstring)} == set()


def test_the_zygote_carries_nothing_of_mshare() -> None:
    assert _foreign(MODULES["mshare._tools.lab.zygote"].imports()) == set()


def test_the_core_loads_without_any_dependency() -> None:
    """`import mshare` must work where only Python is installed: `-S -I` hides site-packages."""
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import mshare; print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "mshare._core.region" in loaded
    assert "resource_tracker" not in loaded
    assert "multiprocessing" not in loaded
