"""Files without a name or a file system, and their seals. May depend on: descriptors.

Facts: a seal takes a right from a file for everybody, even for root, for good. A process that may write the file may
add seals, unless the file has `F_SEAL_SEAL`. `F_SEAL_WRITE` is refused (EBUSY) while any process has a mapping that
could write. `F_SEAL_FUTURE_WRITE` lets such mappings live, and refuses new ones, `write` and holes. Files on a mounted
tmpfs or hugetlbfs have `F_SEAL_SEAL` from birth and cannot be sealed.
Source: fcntl(2), "File Sealing"; Linux 3.17, 5.1 (commit ab3948f58ff8).
"""

from __future__ import annotations

import errno
import fcntl
import os

from .descriptors import Descriptor

SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE = 1, 2, 4, 8, 16
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_MFD_ALLOW_SEALING, _MFD_HUGETLB, _MFD_HUGE_2MB = 0x2, 0x4, 21 << 26


def create(label: str, *, huge: bool = False) -> Descriptor:
    """Return a new, empty file of ordinary pages, or of 2 MiB pages from the pool. `label` shows in /proc/PID/maps."""
    flags = os.MFD_CLOEXEC | _MFD_ALLOW_SEALING | (_MFD_HUGETLB | _MFD_HUGE_2MB if huge else 0)
    return Descriptor.made_by(os.memfd_create, label, flags)


def seals(fd: int) -> int:
    """Return the seals of an open file; `SEAL` alone for files that know none."""
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return SEAL


def add_seals(fd: int, more: int) -> None:
    """Add seals. Raises `OSError`: EPERM if the file has `SEAL` or `fd` is not open for writing; EBUSY, see above."""
    fcntl.fcntl(fd, _F_ADD_SEALS, more)
