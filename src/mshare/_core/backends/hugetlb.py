"""Backend `hugetlb`: files on hugetlbfs, 2 MiB pages from the pool of `vm.nr_hugepages`. May depend on: _files,
backend, linux, geometry, record.

The kernel itself shares the table of 512 entries between processes for shared mappings of whole, aligned 1 GiB
units (`huge_pmd_share` in mm/hugetlb.c), hence the 1 GiB-aligned addresses. `VmPTE` nevertheless counts such a table in
every process; `PageTables` in /proc/meminfo counts the table once.
"""

from __future__ import annotations

import ctypes
import os

from ..backend import Availability, Capabilities, Costs, Progress, Space
from ..geometry import PAGE, PMD, PUD, page_tables, round_up
from ..linux import descriptors, libc, mempolicy
from ..record import file_size
from ._files import PlainFiles, overridden_root, reserve, take, writable

_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
_DEFAULT = "/dev/hugepages"
_MAGIC = 0x958458F6


def _pool(name: str) -> int:
    """Return one number of the pool, in pages; 0 on a kernel without 2 MiB pages. `open` would be three times as slow,
    and every process that attaches reads a number here once."""
    try:
        with descriptors.Descriptor(f"{_POOL}/{name}", os.O_RDONLY) as fd:
            return int(os.read(fd, 32))
    except FileNotFoundError:
        return 0


def _is_usable(root: str) -> bool:
    """Tell whether a hugetlbfs with 2 MiB pages lies there, without the mount table, which is slow to read."""
    return libc.file_system_magic(root) == _MAGIC and os.statvfs(root).f_bsize == PMD


class Hugetlb(PlainFiles):
    """Files on hugetlbfs, reserved with `fallocate`."""

    name = "hugetlb"
    capabilities = Capabilities(
        leaf_size=PMD,
        file_unit=PMD,
        map_unit=PMD,
        sparse=False,
        handle_rights=False,
        shared_tables="the kernel shares the last level of whole GiB",
        needs="a hugetlbfs on /dev/hugepages that you may write to, free huge pages",
    )

    def root(self) -> str | None:
        """/dev/hugepages, where systemd mounts a hugetlbfs. Another mount could belong to another program, such as a
        container, and would end with that program, together with the regions."""
        return overridden_root("hugetlb") or (_DEFAULT if _is_usable(_DEFAULT) else None)

    def availability(self) -> Availability:
        root = self.root()
        where = root or _DEFAULT
        make = f"sudo mkdir -p {where} && sudo mount -t hugetlbfs -o mode=1777,pagesize=2M none {where}"
        if root is None or not _is_usable(root):
            return Availability(False, f"no hugetlbfs with 2 MiB pages is mounted on {where}", make)
        may = writable(root)
        if not may.usable:
            return may
        if self.space().free_bytes < 2 * PMD:
            return Availability(False, "there are no free 2 MiB pages", "sudo sysctl vm.nr_hugepages=N")
        return Availability(True, f"{self.space().free_bytes // PMD} free 2 MiB pages")

    def space(self, node: int | None = None) -> Space:
        free_pages = _pool("free_hugepages") - _pool("resv_hugepages")
        free_pages += max(0, _pool("nr_overcommit_hugepages") - _pool("surplus_hugepages"))
        space = Space(free_pages * PMD, "free 2 MiB pages (vm.nr_hugepages)")
        if node is not None:
            on_node = Space(mempolicy.free_huge_pages(node) * PMD, f"free 2 MiB pages on node {node}")
            space = min(space, on_node)
        root = self.root()
        status = os.statvfs(root) if root else None
        if status is None or not status.f_blocks:  # mounted without size=
            return space
        return min(space, Space(status.f_bavail * status.f_frsize, f"free space of {root}"))

    def costs(self, size_bytes: int, processes: int) -> Costs:
        mapped = round_up(size_bytes, PMD)
        tables = page_tables(mapped, leaf_size=PMD)
        shared = mapped // PUD * PAGE  # one table per whole GiB, the same one in every process
        leaf = tables.pmd_pages * PAGE
        return Costs(
            leaf,
            shared + (leaf - shared) * processes,
            tables.bytes,
            shared + (tables.bytes - shared) * processes,
            "the kernel shares the last-level tables of whole GiB between processes, so in total they count once.",
            file_size(size_bytes, PMD) // PMD,
        )

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        del addr, mapped
        reserve(fd, length, progress)

    def take(self, fd: int, start: int, end: int, addr: int) -> None:
        """`fallocate` leaves its pages behind when the pool is empty in the middle. The promise comes first, for all
        pages or none."""
        del addr
        with descriptors.lock:  # a child forked by another thread must not inherit the mapping
            libc.promise(fd, end - start, start)
        take(fd, start, end)

    def write_record(self, fd: int, length: int, page: bytes) -> None:
        os.posix_fallocate(fd, length - PMD, PMD)  # in a region without reserved memory, a touch could be SIGBUS
        # hugetlbfs knows read, but not write: the record is written through a mapping of the last huge page.
        # The lock: a child forked by another thread must not inherit the mapping.
        with descriptors.lock, libc.mapped(fd, PMD, offset=length - PMD) as addr:
            ctypes.memmove(addr + PMD - len(page), page, len(page))
