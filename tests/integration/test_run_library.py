"""The preload library's file, its place, and the commands that tell about it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from mshare._tools.preload import library
from tests.helpers.preload import MSHARE, SIZE, holding, preloaded, run
from tests.helpers.worlds import STRANGER, needs_root


def test_the_library_needs_no_symbol_newer_than_glibc_2_17(built: Path) -> None:
    with built.open("rb") as stream:
        needed = [
            version.name
            for section in ELFFile(stream).iter_sections()
            if isinstance(section, GNUVerNeedSection)
            for _, versions in section.iter_versions()
            for version in versions
        ]
    assert needed
    for name in needed:
        parts = tuple(int(part) for part in name.removeprefix("GLIBC_").split("."))
        assert parts <= (2, 17), name


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_library_compiles_without_warnings(compiler: str, tmp_path: Path) -> None:
    sources = sorted(library.SOURCE.glob("*.c"))
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror")
    command = [compiler, *library.FLAGS, *flags, "-o", str(tmp_path / "out.so"), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_library_is_built_where_only_its_user_can_write(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = library.ensure(cache / "mshare")
    made = path.stat()
    assert library.ensure(cache / "mshare") == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    path.chmod(0o664)
    assert library.ensure(cache / "mshare").stat().st_mode & 0o022 == 0
    for place in (path.parent, path.parent.parent, path.parent.parent.parent):
        before = place.stat().st_mode
        place.chmod(before | 0o020)
        with pytest.raises(OSError, match="another user may change"):
            library.ensure(cache / "mshare")
        place.chmod(before)
    with pytest.raises(OSError, match="cannot preload"):
        library.ensure(tmp_path / "with blank")


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_the_cache_is_readable_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = library.ensure(tmp_path / "mshare")
    finally:
        os.umask(before)
    for place in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert place.stat().st_mode & 0o777 == 0o755
    assert path.stat().st_mode & 0o777 == 0o644


@needs_root
def test_a_library_that_another_user_planted_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ROOTS_OWN", tmp_path / "roots")
    monkeypatch.setattr(library, "cache_directory", lambda: tmp_path / "own")
    planted = library.ensure(tmp_path / "roots")
    assert library.find() == planted
    os.chown(planted, STRANGER, STRANGER)
    assert library.find() is None
    assert library.ensure() == tmp_path / "own" / planted.relative_to(tmp_path / "roots")


def test_the_variables_for_an_environment_file(built: Path) -> None:
    done = run("--environment", "--only", "postgres", "--fill", "later")
    assert done.stdout == f"LD_PRELOAD='{built}'\nMSHARE_RUN='fill=later,only=postgres'\n"
    read = subprocess.run(
        ["sh", "-c", f"{done.stdout.replace(chr(10), ' ')} env"], capture_output=True, text=True, check=True
    )
    assert f"LD_PRELOAD={built}\nMSHARE_RUN=fill=later,only=postgres\n" in read.stdout or "MSHARE_RUN" in read.stdout
    assert json.loads(run("--environment", "--json").stdout) == {"LD_PRELOAD": str(built), "MSHARE_RUN": ""}


def test_the_check_of_a_program_and_the_machine(built: Path) -> None:
    done = run("--check", "--json", "--", "python3")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["usable"] is True
    assert facts["obstacle"] == ""
    assert facts["library"] == str(built)
    assert facts["program"]["path"] == shutil.which("python3")
    assert facts["host"]["free_bytes"] > 0
    text = run("--check", "--", "python3").stdout
    assert str(built) in text
    assert "2 MiB leaves" in text


def doctor(pid: int) -> list[dict[str, str]]:
    done = subprocess.run([*MSHARE, "doctor", "--pid", str(pid), "--json"], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout)["findings"])


def test_the_doctor_looks_at_a_process(built: Path, programs: Path) -> None:
    command: list[str | Path] = [programs / "holder", "anonymous", str(SIZE)]
    with holding(command, preloaded(built, "backend=thp,fill=ahead")) as process:
        library_found, memory = doctor(process.pid)
        assert str(built) in library_found["text"]
        assert memory["level"] == "ok"
        assert "2 MiB leaves" in memory["text"]
    with holding(command, preloaded(built, "backend=thp,fill=never")) as process:
        memory = doctor(process.pid)[1]
        assert memory["level"] == "advice"
        assert memory["command"] == f"sudo mshare collapse --pid {process.pid}"
    with holding(command) as process:
        library_found, memory = doctor(process.pid)
        assert "does not have the preload library" in library_found["text"]
        assert "4 KiB pages: the address is not aligned" in memory["text"]
        assert "start the program with `mshare run`" in memory["text"]


def test_the_library_finds_the_symbols_that_it_calls() -> None:
    """The names that the library looks up at run time exist in this C library."""
    libc = ctypes.CDLL(None)
    text = (library.SOURCE / "calls.c").read_text()
    names = set(re.findall(r"FIND\((\w+)\);", text)) | set(re.findall(r'RTLD_DEFAULT, "(\w+)"', text))
    assert len(names) > 8
    for name in names:
        assert hasattr(libc, name)
