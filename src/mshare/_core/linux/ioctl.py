"""The ioctls of msharefs, as kernel/uapi/linux/msharefs.h defines them. May depend on: descriptors, typed.

Other file systems answer ENOTTY to an unknown number, and so does msharefs for its file `mshare_info`.
"""

from __future__ import annotations

import errno
import fcntl
import struct

from ..typed import NamedTuple
from .descriptors import Descriptor

ABI = 1
SEALED, MAP_ONLY, HUGE = 2, 4, 8
"""Bits of `RegionFacts.flags`."""
_INFO = struct.Struct("=IIQQQQQQQII4Q")
_BASE = struct.Struct("=Q")
_WRITE, _READ = 1, 2


def _request(direction: int, number: int, size: int) -> int:
    """Return the number that the macros `_IOR` and `_IOW` make (include/uapi/asm-generic/ioctl.h)."""
    return direction << 30 | size << 16 | 0xBC << 8 | number


_IOC_INFO = _request(_READ, 0, _INFO.size)
_IOC_SET_BASE = _request(_WRITE, 3, _BASE.size)
_IOC_SEAL = _request(0, 4, 0)
_IOC_HANDLE = _request(_WRITE, 5, 4)
_IOC_HUGE = _request(_WRITE, 6, 4)


class RegionFacts(NamedTuple):
    """`struct mshare_info`: the kernel's facts about a region. uapi/linux/msharefs.h explains the fields."""

    abi: int
    flags: int
    size_bytes: int
    base: int
    unit_bytes: int
    pages: int
    table_bytes: int
    generation: int
    filled: int
    attachments: int
    processes: int
    charged_bytes: int
    """Bytes of the mount's `size=` that the region holds: pages and page tables, made or promised."""
    huge_pages: int
    """Blocks (2 MiB of the file) that are one page. 0 if the module is an older one."""
    huge_fallbacks: int
    """Blocks that should have become one page, and got pages of 4 KiB."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory in the region's pages."""
        return self.pages * 4096


def region_facts(fd: int) -> RegionFacts | None:
    """Return the kernel's facts about the open file; None if the file is not on an msharefs that we understand."""
    raw = bytearray(_INFO.size)
    try:
        fcntl.ioctl(fd, _IOC_INFO, raw)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise
    facts = RegionFacts(*_INFO.unpack(raw)[: len(RegionFacts._fields)])
    return facts if facts.abi == ABI else None


def set_base(fd: int, addr: int) -> None:
    """Set the address at which all processes should attach the file. Raises `OSError`: EINVAL, EBUSY, EPERM, EBADF."""
    fcntl.ioctl(fd, _IOC_SET_BASE, _BASE.pack(addr))


def seal(fd: int) -> None:
    """Make the open file read-only for everybody, forever. Raises `OSError`: EBUSY (pinned pages), EPERM, EBADF."""
    fcntl.ioctl(fd, _IOC_SEAL)


def huge(fd: int, *, on: bool) -> bool:
    """Say whether new blocks of the open file are pages of 2 MiB. Return False if the mount (`huge=never`), the kernel
    or the module has none. Raises `OSError`: EPERM, EBADF."""
    try:
        fcntl.ioctl(fd, _IOC_HUGE, struct.pack("=I", int(on)))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise
        return False
    return True


def map_only(fd: int, *, writable: bool) -> Descriptor:
    """Return a new descriptor that can map and read the open file, and nothing more. Raises `OSError`: EBADF, EPERM,
    EMFILE."""
    return Descriptor.made_by(fcntl.ioctl, fd, _IOC_HANDLE, bytearray(struct.pack("=I", int(writable))))
