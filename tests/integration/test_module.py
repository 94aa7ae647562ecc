"""`mshare module` where no module can or may be loaded. In a guest, tests/kernel/test_module.py loads the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mshare._core.errors import AccessDeniedError, BackendUnavailableError, ModuleBuildError
from mshare._core.linux.module import is_loaded, obstacle
from mshare._core.procfs import parse_mountinfo
from mshare._tools import module
from mshare.testing.processes import in_child

REPOSITORY = Path(__file__).parents[2]


def cli(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mshare", "module", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answer(*args: str) -> Any:
    return json.loads(cli(*args, "--json").stdout)


def test_the_status_is_what_proc_and_sys_say() -> None:
    done = cli("status")
    seen = answer("status")
    assert seen["kernel"] == os.uname().release
    assert seen["loaded"] is Path("/sys/module/mshare").exists()
    assert seen["mounted"] is (" /sys/fs/mshare msharefs " in Path("/proc/self/mounts").read_text())
    assert (seen["obstacle"] is None) is Path("/proc/modules").exists()
    assert done.returncode == (0 if seen["loaded"] and seen["mounted"] else 8)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "kernel",
        "takes",
        "loaded",
        "mounted",
        "headers",
        "built",
        "source",
    ]


def test_options_go_with_their_subcommand() -> None:
    for option, value in (("--size", "1G"), ("--mode", "1777"), ("--group", "root")):
        refused = cli("status", option, value)
        assert (refused.returncode, f"No such option: {option}" in refused.stderr) == (2, True)
    assert "No such option: --kernel" in cli("load", "--kernel", "6.1").stderr
    assert "No such command 'reload'" in cli("reload").stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--mode", "9", "invalid mode"),
        ("--mode", "4755", "not for this directory"),
        ("--group", "no-such-group", "there is no group"),
        ("--group", "4294967295", "there is no group"),
        ("--size", "0", "no region fits"),
        ("--huge", "perhaps", "choose one of never, advise, always"),
    ],
)
def test_what_cannot_be_mounted_is_refused_first(option: str, value: str, said: str) -> None:
    refused = cli("load", option, value)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ((None, None, None, None), "mode=0755"),
        ((64 << 20, None, None, None), "mode=0755,size=67108864"),
        ((None, None, 26, "always"), "mode=1775,gid=26,huge=always"),
        ((1 << 30, 0o770, 0, None), "mode=0770,gid=0,size=1073741824"),
        ((None, 0o1777, None, "never"), "mode=1777,huge=never"),
    ],
)
def test_only_root_makes_regions_unless_told(
    asked: tuple[int | None, int | None, int | None, str | None], options: str
) -> None:
    assert module._options(*asked) == options


def test_a_mount_comes_back_with_the_options_it_had(tmp_path: Path) -> None:
    table = b"36 21 0:35 / /sys/fs/mshare rw,nosuid,nodev,noexec,relatime - msharefs msharefs %s\n"
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o1775)
    directory = (tmp_path / "root").stat()
    rights = f"mode=1775,uid={directory.st_uid},gid={directory.st_gid}"
    (full,) = parse_mountinfo(table % b"rw,size=65536k,mode=755,nr_inodes=7,uid=33")
    assert module.same_again(full, directory) == f"{rights},nr_inodes=7,size=65536k"
    (plain,) = parse_mountinfo(table % b"rw")
    assert module.same_again(plain, directory) == rights
    assert module.same_again(None, directory) == rights


def test_loading_needs_a_kernel_that_takes_modules_and_root() -> None:
    if is_loaded("mshare"):
        pytest.fail("the module is loaded on this host; these tests are for one where it is not")
    expected = BackendUnavailableError if obstacle() is not None else AccessDeniedError

    def attempt() -> str:
        try:
            module.load()
        except OSError as error:
            return type(error).__name__
        return "loaded"

    assert in_child(attempt, uid=1001).value == expected.__name__
    if obstacle() is not None:
        done = cli("load")
        assert (done.returncode, done.stdout) == (8, "")
        assert "another backend" in done.stderr
    assert answer("unload")["loaded"] is False


@pytest.mark.parametrize("release", ["6.0.0-none", "../../etc", ".", ""])
def test_a_kernel_that_is_not_there(release: str, tmp_path: Path) -> None:
    done = cli("build", f"--kernel={release}", "--cache", str(tmp_path))
    if release:
        assert done.returncode == 8
        assert "linux-headers-6.0.0-none" in done.stderr or "invalid kernel release" in done.stderr
    assert not release or list(tmp_path.iterdir()) == []


def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makefile: str) -> None:
    """Give a kernel called `mine`, which `makefile` builds."""
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "Makefile").write_text(makefile)
    monkeypatch.setattr(module, "headers_of", lambda release: tmp_path / "headers")


def test_a_module_is_built_once_per_kernel_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers(
        tmp_path, monkeypatch, "modules:\n\tcat $(M)/*.c $(M)/Kbuild > $(M)/mshare.ko\n\techo x >> $(M)/../../count\n"
    )
    cache = tmp_path / "cache"
    built = module.build("mine", cache)
    assert built.parent.parent == cache / "mine"
    assert b"MODULE_LICENSE" in built.read_bytes()
    assert module.build("mine", cache) == built
    assert (built.parent / "count").read_text() == "x\n"
    assert sorted(path.name for path in built.parent.iterdir()) == ["build.log", "count", "mshare.ko"]
    (built.parent / "count").unlink()
    built.parent.chmod(0o777)  # another program may have put the directory there
    assert module.build("mine", cache) == built
    assert (built.parent / "count").exists()


def test_a_build_that_fails_shows_the_compilers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers(tmp_path, monkeypatch, "modules:\n\t@echo 'x.c:1: error: no such thing'; exit 1\n")
    with pytest.raises(ModuleBuildError, match=r"error: no such thing.*build\.log") as caught:
        module.build("mine", tmp_path / "cache")
    assert caught.value.errno is not None
    assert not list((tmp_path / "cache").rglob("*.ko"))


def test_the_packages_source_is_all_of_kernels() -> None:
    """The wheel (package-data) has every file of kernel/ that git has, and nothing that make has left there."""
    known = subprocess.run(
        ["git", "ls-files", "kernel"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [pattern for pattern in settings["package-data"]["mshare"] if pattern.startswith("kernel_source/")]
    excluded = settings["exclude-package-data"]["mshare"]
    root = REPOSITORY / "src" / "mshare"
    taken = {path for pattern in patterns for path in root.glob(pattern)}
    taken -= {path for pattern in excluded for path in root.glob(pattern)}
    assert {str(path.relative_to(root / "kernel_source")) for path in taken} == {
        name.removeprefix("kernel/") for name in known if not name.endswith(".gitignore")
    }
