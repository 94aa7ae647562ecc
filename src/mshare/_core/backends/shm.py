"""Backend `shm`: tmpfs with 4 KiB leaves, the baseline on every machine. May depend on: _files, backend, linux,
units, geometry."""

from __future__ import annotations

import os
from contextlib import suppress

from ..backend import Availability, Capabilities, Progress, Space
from ..geometry import PAGE
from ..linux import libc
from ..linux.memory import memory_room, node_room
from ..linux.mounts import mount_under
from ..units import MIB
from ._files import PlainFiles, overridden_root, reserve, take, writable

_MAGIC = 0x01021994
"""TMPFS_MAGIC of statfs(2)."""

_STEP = 16 * MIB


def memory_space(node: int | None) -> Space:
    """Return the ordinary memory of this machine that can be had, or that of one node."""
    memory = Space(*memory_room())
    return memory if node is None else min(memory, Space(*node_room(node)))


def touch(start: int, end: int) -> None:
    """Touch all pages between two addresses, as far as the kernel can (Linux 5.14)."""
    for at in range(start, end, _STEP):
        with suppress(OSError):  # another process has just given the memory back, or no memory for page tables is left
            libc.madvise(at, min(_STEP, end - at), libc.MADV_POPULATE_READ)


class Shm(PlainFiles):
    """Files on tmpfs, reserved with `fallocate`."""

    name = "shm"
    capabilities = Capabilities(
        leaf_size=PAGE,
        file_unit=PAGE,
        map_unit=PAGE,
        sparse=True,
        handle_rights=False,
        shared_tables="none: 2 MiB per process and GiB",
        needs="tmpfs on /dev/shm",
    )

    def root(self) -> str | None:
        """/dev/shm itself, so that `shm_open("/NAME")` finds a region. The directory belongs to root and is sticky, so
        nobody can remove or replace another user's files. A new directory would belong to the first user that needs
        one."""
        return overridden_root("shm") or "/dev/shm"

    def availability(self) -> Availability:
        root = self.root()
        magic = None if root is None else libc.file_system_magic(root)
        if root is None or magic is None:
            return Availability(False, f"there is no {root}", f"sudo mount -t tmpfs -o mode=1777 none {root}")
        if magic != _MAGIC:
            mount = mount_under(root)
            kind = "another file system" if mount is None else mount.fs_type
            return Availability(False, f"{root} is {kind}, not tmpfs", f"sudo mount -t tmpfs -o mode=1777 none {root}")
        return writable(root)

    def space(self, node: int | None = None) -> Space:
        root = self.root()
        assert root is not None
        memory = memory_space(node)
        status = os.statvfs(root)
        if not status.f_blocks:  # tmpfs without a size limit
            return memory
        return min(memory, Space(status.f_bavail * status.f_frsize, f"free space of {root}"))

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        del addr, mapped
        reserve(fd, length, progress)

    def take(self, fd: int, start: int, end: int, addr: int) -> None:
        """The touch clears the pages, so that no later touch has to, and mincore(2) sees them from then on."""
        take(fd, start, end)
        touch(addr + start, addr + end)

    def write_record(self, fd: int, length: int, page: bytes) -> None:
        os.pwrite(fd, page, length - len(page))
