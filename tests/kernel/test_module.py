"""`mshare module` where a module can be loaded: in a guest, with the module that `python3 -m vm` has built for it."""

from __future__ import annotations

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
from mshare import module
from mshare.__main__ import main
from mshare.linux.libc import mmap_into, munmap_from

pytestmark = pytest.mark.timeout(600)
ROOT = Path("/sys/fs/mshare")
LOADED = Path("/sys/module/mshare")
REPOSITORY = Path(__file__).parents[2]


def cli(*args: str) -> tuple[int, Any]:
    """Run a command in this process (starting another takes seconds here); its exit code and what it said, as JSON."""
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
    assert "not loaded" in mshare.backends.ALL[0].availability().reason
    code, seen = cli("load", "--cache", str(cache), "--size", "64M")
    assert (code, seen["loaded"], seen["mounted"], seen["size_bytes"]) == (0, True, True, 64 << 20)
    assert cli("load", "--cache", str(cache))[0] == 0
    assert mshare.backends.ALL[0].availability().usable
    assert cli("unload")[0] == 0
    assert module.load(cache=cache).mounted  # as it was before


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
    assert cli("load", "--cache", str(cache))[0] == 0
