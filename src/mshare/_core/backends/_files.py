"""The common part of the backends, whose regions are files under a root. May depend on: backend, linux, units,
geometry, record."""

from __future__ import annotations

import os

from ..backend import Availability, Capabilities, Costs, LeafChoice, Progress, Wish
from ..geometry import PAGE, PMD, page_tables, round_up
from ..linux import libc
from ..linux.descriptors import Descriptor
from ..record import Record
from ..units import MIB

_STEP = 16 * MIB
"""A step is small, so that a process with a periodic signal makes progress: an interrupted `fallocate` starts again."""


class PlainFiles:
    """Files about which the kernel has no special knowledge: no address, no users. A base for backends."""

    capabilities: Capabilities

    def root(self) -> str | None:
        raise NotImplementedError

    def open_file(self) -> Descriptor:
        root = self.root()
        assert root is not None
        return Descriptor(root, os.O_RDWR | os.O_TMPFILE)

    def choose_leaf(self, fd: int, wish: Wish) -> LeafChoice:
        """The file system has leaves of one size. A mapping shorter than a leaf of 2 MiB has leaves of 4 KiB."""
        del fd
        able = self.capabilities
        return LeafChoice(able.leaf_size if round_up(wish.size_bytes, able.map_unit) >= able.leaf_size else PAGE)

    def charge(self, length: int) -> int:
        return length

    def costs(self, size_bytes: int, processes: int) -> Costs:
        leaf_size = self.capabilities.leaf_size
        mapped = round_up(size_bytes, self.capabilities.map_unit)
        tables = page_tables(mapped, leaf_size=leaf_size)
        leaf_pages = tables.pte_pages
        if leaf_size == PMD:  # the tables that have a 2 MiB leaf in them
            leaf_pages += page_tables(mapped - mapped % PMD, leaf_size=PMD).pmd_pages
        leaf = leaf_pages * PAGE
        return Costs(leaf, leaf * processes, tables.bytes, tables.bytes * processes)

    def announce(self, fd: int, addr: int) -> None:
        del fd, addr

    def adopt(self, fd: int, status: os.stat_result) -> Record | None:
        del fd, status
        return None

    def attached(self, fd: int) -> bool:
        del fd
        return False


def overridden_root(kind: str) -> str | None:
    """Return `$MSHARE_ROOT/<kind>` if that variable is set: a private world, for tests and for services."""
    base = os.environ.get("MSHARE_ROOT")
    return os.path.join(base, kind) if base else None


def writable(root: str, refused: Availability | None = None) -> Availability:
    """Tell whether this process may create files in `root`. `refused`: the answer if the directory's mode and owner
    forbid new files."""
    if os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        return Availability(True, f"{root} is writable")
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return Availability(False, f"{root} is mounted read-only", f"sudo mount -o remount,rw {root}")
    return refused or Availability(False, f"{root} is not writable for uid {os.geteuid()}", f"sudo chmod 1777 {root}")


def reserve(fd: int, length: int, progress: Progress | None) -> None:
    """Allocate every block of the file, in steps, so that a signal or a full file system can end the work early."""
    for start in range(0, length, _STEP):
        os.posix_fallocate(fd, start, min(_STEP, length - start))
        if progress is not None:
            progress(min(start + _STEP, length), length)


def take(fd: int, start: int, end: int) -> None:
    """Give the bytes from `start` to `end` of the file memory in one call of the kernel, which other programs may see.

    Facts: if fallocate(2) fails on tmpfs, the kernel takes back the pages that the call has made and that nobody has
    touched, in the same step. A signal makes the call fail, and it would begin again.
    Consequence: a call per step would leave the steps before the failure, and removing these steps could destroy data
    that another process has stored in the meantime.
    Decision: one call, without signals. A kill ends the call, and the kernel cleans up.
    """

    def call() -> None:
        while True:
            try:
                return libc.fallocate(fd, 0, start, end - start)
            except InterruptedError:  # stopped and continued, say
                pass

    libc.without_signals(call)
