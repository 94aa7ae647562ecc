"""Helpers of the fault tests, which plant files, set limits and count."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mshare._core.geometry import PAGE, WINDOW
from mshare._core.record import Record, file_size

STRANGER = 54321
"""A uid that owns nothing."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user, or mounts")


@contextmanager
def small_tmpfs(at: Path, size: str) -> Iterator[None]:
    """Mount a tmpfs of `size` over the directory `at`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "none", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


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
