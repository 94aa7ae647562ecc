"""`mshare module` where a module can be loaded: in a guest, with the module that `python3 -m vm` has built for it."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare.__main__ import main
from mshare._core.linux.libc import mmap_into, munmap_from
from mshare._core.linux.mounts import mounts
from mshare._tools import module
from mshare.testing.processes import in_child

pytestmark = pytest.mark.timeout(600)
ROOT = Path("/sys/fs/mshare")
LOADED = Path("/sys/module/mshare")
REPOSITORY = Path(__file__).parents[2]


def cli(*args: str) -> tuple[int, Any]:
    """Run a command in this process (a new process takes seconds here). Return its exit code and its JSON output."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["module", *args, "--json"])
    return code, json.loads(out.getvalue() or err.getvalue())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that has the module already: compiling takes minutes in a guest."""
    release = os.uname().release
    target = module._built(release, tmp_path)
    target.parent.mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "build" / "vm" / release / "mshare.ko", target)
    return tmp_path


def test_out_and_in_again(cache: Path) -> None:
    code, seen = cli("status")
    assert (code, seen["loaded"], seen["mounted"], seen["regions"], seen["obstacle"]) == (0, True, True, 0, None)
    code, seen = cli("unload")
    assert (code, seen["loaded"], seen["mounted"], LOADED.exists()) == (0, False, False, False)
    assert cli("unload")[0] == 0
    code, seen = cli("status")
    assert (code, seen["size_bytes"]) == (8, None)
    assert "not loaded" in mshare._core.backends.ALL[0].availability().reason
    code, seen = cli("load", "--cache", str(cache), "--size", "64M")
    assert (code, seen["loaded"], seen["mounted"], seen["size_bytes"]) == (0, True, True, 64 << 20)
    assert (seen["mode"], seen["uid"], seen["gid"]) == ("0755", 0, 0)
    assert "huge=" not in options()
    assert cli("load", "--cache", str(cache), "--huge", "always")[0] == 0
    assert {"huge=always", "size=65536k"} <= options()
    assert mshare._core.backends.ALL[0].availability().usable
    assert cli("unload")[0] == 0
    assert load_for_all(cache).mounted  # as it was before


def options() -> set[str]:
    """The mount's own options."""
    return set(next(each for each in mounts(module.FILE_SYSTEM) if each.mount_point == str(ROOT)).options)


def load_for_all(cache: Path) -> module.Status:
    """Load and mount as the guest did: the other tests make regions as ordinary users."""
    return module.load(mode=0o1777, cache=cache, huge="advise")


def test_one_group_is_admitted(cache: Path) -> None:
    def attempt() -> str:
        os.setgroups([34])
        os.setresgid(1001, 1001, 1001)
        os.setresuid(1001, 1001, 1001)
        try:
            mshare.create("r", 1, backend="msharefs").close()
        except mshare.BackendUnavailableError as error:
            return str(error)
        return "made"

    assert cli("unload")[0] == 0
    assert module.load(cache=cache).mode == 0o755
    refused = in_child(attempt).value
    assert "uid 1001 may make no regions in /sys/fs/mshare (mode 0755" in refused
    assert "mshare module load --group" in refused
    code, seen = cli("load", "--cache", str(cache), "--group", "34")  # of the mount that is there
    assert (code, seen["mode"], seen["gid"]) == (0, "1775", 34)
    assert in_child(attempt).value == "made"
    mshare.unlink("r")
    assert cli("unload")[0] == 0
    loaded = module.load(gid=34, cache=cache)
    assert (loaded.mode, loaded.gid) == (0o1775, 34)
    assert in_child(attempt).value == "made"
    mshare.unlink("r")
    assert cli("unload")[0] == 0
    load_for_all(cache)


def test_an_unload_that_fails_mounts_the_same_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("unload")[0] == 0
    module.load(size=64 << 20, gid=34, cache=cache)
    subprocess.run(["mount", "-o", "remount,nr_inodes=77", str(ROOT)], check=True)
    ROOT.chmod(0o1770)

    def busy(name: str) -> None:
        raise BlockingIOError(errno.EWOULDBLOCK, name)

    with monkeypatch.context() as patched:
        patched.setattr("mshare._core.linux.module.remove", busy)
        code, said = cli("unload")
    assert (code, "still in use" in said["error"]["message"]) == (5, True)
    seen = module.status()
    assert (seen.mounted, seen.size_bytes, seen.mode, seen.gid) == (True, 64 << 20, 0o1770, 34)
    assert os.statvfs(ROOT).f_files == 77
    assert cli("unload")[0] == 0
    load_for_all(cache)


def test_what_is_in_use_stays(cache: Path) -> None:
    region = mshare.create("kept", 1, backend="msharefs")
    region.buf[0] = 7
    code, said = cli("unload")
    assert (code, said["error"]["class"]) == (5, "RegionBusyError")
    assert "kept" in said["error"]["message"]
    fd = os.open(region.info().path, os.O_RDWR)
    region.close()
    mshare.unlink("kept")
    at: list[int] = []
    mmap_into(at, fd, 1 << 30, writable=True)
    os.close(fd)
    code, said = cli("unload")
    assert (code, LOADED.exists()) == (5, True)
    assert "in use" in said["error"]["message"]
    munmap_from(at, 1 << 30)
    elsewhere = cache / "mnt"
    elsewhere.mkdir()
    subprocess.run(["mount", "-t", "msharefs", "none", str(elsewhere)], check=True)
    code, said = cli("unload")
    assert (code, str(elsewhere) in said["error"]["message"]) == (5, True)
    subprocess.run(["umount", str(elsewhere)], check=True)
    assert ROOT.is_mount()


def test_what_is_no_module_is_refused(cache: Path) -> None:
    target = module._built(os.uname().release, cache)
    assert cli("unload")[0] == 0
    good = target.read_bytes()
    target.write_bytes(good[: len(good) // 2])
    code, said = cli("load", "--cache", str(cache))
    assert (code, said["error"]["class"], LOADED.exists()) == (1, "ModuleBuildError", False)
    target.write_bytes(good)
    load_for_all(cache)
