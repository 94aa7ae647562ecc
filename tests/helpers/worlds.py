"""Helpers of the fault tests, which plant files, set limits and count."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

import mshare
from mshare._core.geometry import PAGE, WINDOW
from mshare._core.record import Record, file_size

STRANGER = 54321
"""A uid that owns nothing."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user, or mounts")


@contextmanager
def small_tmpfs(at: Path, size: str, *options: str) -> Iterator[None]:
    """Mount a tmpfs of `size` over the directory `at`."""
    every = ",".join((f"size={size}", "mode=1777", *options))
    subprocess.run(["mount", "-t", "tmpfs", "-o", every, "none", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def own_ipc() -> Iterator[None]:
    """Give this thread and the programs that it starts SysV objects of their own for the time of a `with` block.

    There are none at first, and the end of the last process removes all.
    """
    libc, new_ipc = ctypes.CDLL(None, use_errno=True), 0x08000000
    before = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(new_ipc):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            yield
        finally:
            libc.setns(before, new_ipc)
    finally:
        os.close(before)


@contextmanager
def removed(name: str) -> Iterator[None]:
    """Remove the name at the end, so that the next example of hypothesis can use it, also after a failed one."""
    try:
        yield
    finally:
        if any(region.name == name for region in mshare.regions()):
            mshare.unlink(name)


def die() -> NoReturn:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def free_bytes(at: Path) -> int:
    status = os.statvfs(at)
    return status.f_bfree * status.f_frsize


def region_file(size: int = PAGE, *, addr: int = WINDOW[0], length: int | None = None) -> bytes:
    """Return a file of `length` bytes whose record, with these `size` and `addr`, may lie."""
    page = Record(size, addr, PAGE, PAGE, 0, "shm", "planted").encode()
    return page.rjust(file_size(size, PAGE) if length is None else length, b"\0")


def window_mappings() -> list[str]:
    """Return the lines of /proc/self/maps in mshare's window."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if WINDOW[0] <= int(line.partition("-")[0], 16) < WINDOW[1]]
