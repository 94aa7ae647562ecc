"""`create(fill=…)`: the content is there before the name is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mshare
from mshare._core import calls, creation


def test_the_name_appears_with_the_content(backend: str) -> None:
    seen: list[bool] = []

    def fill(view: memoryview) -> None:
        assert len(view) == 12_289
        assert not view.readonly
        view[:] = b"x" * len(view)
        seen.append(any(info.name == "full" for info in mshare.regions()))

    with mshare.create("full", 12_289, backend=backend, fill=fill) as region:
        assert bytes(region.buf) == b"x" * 12_289
        assert mshare.regions()[0].pids == (os.getpid(),)
    assert seen == [False]
    assert mshare.regions()[0].orphan


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(errno.ENOSPC, "target full"), KeyboardInterrupt()])
def test_an_error_in_fill_passes_unchanged_and_leaves_nothing(world: Path, error: BaseException) -> None:
    tries = []

    def fill(view: memoryview) -> None:
        tries.append(len(view))
        raise error

    with pytest.raises(type(error)) as caught:
        mshare.create("broken", 4 << 20, fill=fill)
    assert caught.value is error
    assert tries == [4 << 20], "another backend must not be tried with a source already half read"
    del caught
    assert mshare.regions() == []
    assert list((world / "shm").iterdir()) == []


def test_fill_may_not_keep_views(world: Path) -> None:
    kept: list[memoryview] = []
    with pytest.raises(mshare.ViewsAliveError):
        mshare.create("kept", 4096, fill=lambda view: kept.append(view[10:20]))
    assert list((world / "shm").iterdir()) == []
    kept[0][0] = 1  # still memory, not a dangling pointer
    kept.clear()


def test_a_frozen_region_can_be_filled(world: Path) -> None:
    def fill(view: memoryview) -> None:
        view[:5] = b"fixed"

    with creation.build(creation.Spec("ice", 5, fill=fill, frozen=True)) as region:
        assert region.readonly
        assert bytes(region.buf) == b"fixed"
    with pytest.raises(mshare.AccessDeniedError):
        mshare.attach("ice")
    calls.mshare_unlink("ice")


def test_a_creator_killed_while_filling_leaves_nothing(world: Path) -> None:
    program = """
import os, signal, mshare
def fill(view):
    view[:1] = b"x"
    os.kill(os.getpid(), signal.SIGKILL)
mshare.create("half", 1 << 20, fill=fill)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert list((world / "shm").iterdir()) == []
