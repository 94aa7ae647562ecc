"""Backend `hugetlb`: files on hugetlbfs, 2 MiB pages from the pool of `vm.nr_hugepages`. May depend on: backend, linux.

The kernel itself shares the table of 512 entries between processes for shared mappings of whole, aligned 1 GiB
units (`huge_pmd_share` in mm/hugetlb.c), hence the 1 GiB-aligned addresses. `VmPTE` counts such a table in every
process all the same; `PageTables` in /proc/meminfo tells the truth.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ..backend import Availability, Capabilities, Progress, Space
from ..geometry import PMD
from ..linux import descriptors, libc
from ..linux.mounts import mount_under, mounts
from ..procfs import Mount
from ._files import PlainFiles, overridden_root, reserve, writable

_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
_DEFAULT = Path("/dev/hugepages")


def _pool(name: str) -> int:
    """Return one number of the pool, in pages; 0 on a kernel without 2 MiB pages. Not with `Path.read_bytes`: three
    times as slow, and every process that attaches looks here once."""
    try:
        with descriptors.Descriptor(f"{_POOL}/{name}", os.O_RDONLY) as fd:
            return int(os.read(fd, 32))
    except FileNotFoundError:
        return 0


def _has_pages() -> bool:
    """Tell whether there are huge pages, taken or free, or may be: without, no file can have any, and the mount table,
    slow to read in a new process, does not matter."""
    return _pool("nr_hugepages") > 0 or _pool("nr_overcommit_hugepages") > 0


def _is_usable(mount: Mount | None) -> bool:
    sizes = [option for option in mount.options if option.startswith("pagesize=")] if mount else []
    return mount is not None and mount.fs_type == "hugetlbfs" and (not sizes or sizes == ["pagesize=2M"])


def _is_visible(mount: Mount) -> bool:
    """Tell whether the mount can be reached, and no later one hides it."""
    try:
        return os.stat(mount.mount_point).st_dev == mount.dev
    except OSError:
        return False


class Hugetlb(PlainFiles):
    """Files on hugetlbfs, reserved with `fallocate`."""

    name = "hugetlb"
    capabilities = Capabilities(
        leaf_size=PMD,
        unit=PMD,
        map_unit=PMD,
        sparse=False,
        controlled=False,
        shared_tables="the kernel shares the last level of whole GiB",
        needs="a hugetlbfs mount you may write to, free huge pages",
    )

    def root(self) -> Path | None:
        """/dev/hugepages, where systemd mounts it, or else the first hugetlbfs with 2 MiB pages that can be reached:
        others keep mounts of their own in private directories."""
        forced = overridden_root("hugetlb")
        if forced is not None:
            return forced
        if not _has_pages():
            return None
        found = [mount for mount in mounts("hugetlbfs") if _is_usable(mount) and _is_visible(mount)]
        if not found:
            return None
        if _is_usable(mount_under(_DEFAULT)):
            return _DEFAULT
        return next((Path(mount.mount_point) for mount in found if os.access(mount.mount_point, os.X_OK)), None)

    def availability(self) -> Availability:
        root = self.root()
        where = root or _DEFAULT
        make = f"sudo mkdir -p {where} && sudo mount -t hugetlbfs -o mode=1777,pagesize=2M none {where}"
        if root is None and not _has_pages():
            return Availability(False, "there are no 2 MiB pages", "sudo sysctl vm.nr_hugepages=N")
        if root is None or not _is_usable(mount_under(root)):
            return Availability(False, f"no hugetlbfs with 2 MiB pages is mounted on {where}", make)
        may = writable(root)
        if not may.usable:
            return may
        if self.space().free_bytes < 2 * PMD:
            return Availability(False, "there are no free 2 MiB pages", "sudo sysctl vm.nr_hugepages=N")
        return Availability(True, f"{self.space().free_bytes // PMD} free 2 MiB pages")

    def space(self) -> Space:
        free_pages = _pool("free_hugepages") - _pool("resv_hugepages")
        free_pages += max(0, _pool("nr_overcommit_hugepages") - _pool("surplus_hugepages"))
        space = Space(free_pages * PMD, "free 2 MiB pages (vm.nr_hugepages)")
        root = self.root()
        status = os.statvfs(root) if root else None
        if status is None or not status.f_blocks:  # mounted without size=
            return space
        return min(space, Space(status.f_bavail * status.f_frsize, f"free space of {root}"))

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        del addr, mapped
        reserve(fd, length, progress)

    def write_record(self, fd: int, length: int, page: bytes) -> None:
        # hugetlbfs reads but does not write: the record goes in through a mapping of the last huge page.
        # The lock: a child forked by another thread must not inherit the mapping.
        with descriptors.lock, libc.mapped(fd, PMD, offset=length - PMD) as addr:
            ctypes.memmove(addr + PMD - len(page), page, len(page))
