"""vm.lint: the messages about the module's own files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vm import lint, store
from vm.errors import BuildError

OUTPUT = """\
  CC [M]  tree.o
  CHECK   tree.c
tree.c:47:9: warning: context imbalance in 'mshare_link' - wrong count at exit
tree.c:47:9: warning: context imbalance in 'mshare_link' - wrong count at exit
compat/compat.h:12:1: error: incompatible types
/usr/src/linux-headers/include/linux/mm.h:100:1: warning: something of theirs
warning: pahole version differs from the one used to build the kernel
  LD [M]  mshare.o
"""


def test_sparse_is_heard_about_our_files_only() -> None:
    assert lint.ours(OUTPUT) == [
        "kernel/tree.c:47:9: warning: context imbalance in 'mshare_link' - wrong count at exit",
        "kernel/compat/compat.h:12:1: error: incompatible types",
    ]
    assert lint.ours("") == []


def test_a_build_that_left_sparse_out_is_no_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = store.Kernel("7.3.4+deb13-amd64", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("vm.suite.build_with", lambda *_: "  CC [M]  main.o\n")
    with pytest.raises(BuildError, match="sparse does not run"):
        lint.sparse(tmp_path, kernel)
    monkeypatch.setattr("vm.suite.build_with", lambda *_: "  CC [M]  main.o\n  CHECK   main.c\n")
    assert lint.sparse(tmp_path, kernel) == []


def _repository(path: Path) -> Path:
    for name in ("kernel/main.c", "kernel/uapi/linux/x.h", "kernel/mshare.mod.c", "kernel/Kbuild", "src/x.c"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def test_any_set_of_source_files_is_checked(tmp_path: Path) -> None:
    found = lint.sources(_repository(tmp_path))
    assert [str(path.relative_to(tmp_path)) for path in found] == ["kernel/main.c", "kernel/uapi/linux/x.h"]


def test_every_file_is_read_and_a_checker_that_fails_in_silence_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        said = "kernel/main.c:1: WARNING:X: y\n" if command[-1] == "kernel/main.c" else ""
        return subprocess.CompletedProcess(command, 1, said, "")

    repository = _repository(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", fake)
    said = lint.checkpatch(Path("/cache/checkpatch.pl"), repository)
    assert said[0] == "kernel/main.c:1: WARNING:X: y"
    assert said[1].endswith("x.h: checkpatch ended with status 1")
    assert ["--ignore=BIT_MACRO" in command for command in commands] == [False, True]


def test_a_cached_checkpatch_needs_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpatch").mkdir()
    (tmp_path / "checkpatch" / "checkpatch.pl").touch()
    monkeypatch.setattr("vm.apt.output_of", lambda *_: pytest.fail("a cached checkpatch must not need apt"))
    assert lint.checkpatch_script(tmp_path, print) == tmp_path / "checkpatch" / "checkpatch.pl"
