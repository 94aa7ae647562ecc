"""Which file system lies under a path. May depend on: procfs."""

from __future__ import annotations

import os
from pathlib import Path

from ..procfs import Mount, parse_mountinfo


def mounts(fs_type: str | None = None) -> list[Mount]:
    """Return the mounts this process sees, in order, or those of one file-system type."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes(), fs_type)


def mount_under(path: Path) -> Mount | None:
    """Return the mount that holds `path`, or None if the path does not exist or its mount is not visible."""
    try:
        dev = os.stat(path).st_dev
    except OSError:
        return None
    return next((mount for mount in reversed(mounts()) if mount.dev == dev), None)
