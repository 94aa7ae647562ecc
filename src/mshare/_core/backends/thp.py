"""Backend `thp`: tmpfs with 2 MiB leaves by `MADV_COLLAPSE`, for anybody, with no setting changed. May depend on:
limits, _files, shm (the same files), backend, linux, errors, units, geometry.

Facts: `MADV_COLLAPSE` (Linux 6.1) ignores the THP settings in /sys. The call gathers a 2 MiB block of a tmpfs file into
one huge page and fills missing pages with zeros, but answers EINVAL for a block with no page at all. Stock 6.12 also
answers EINVAL if the process has no page table yet, although the kernel has made the huge page
(`collapse_pte_mapped_thp` in mm/khugepaged.c: `SCAN_PMD_NULL`).
Consequence: a `fallocate` before the collapse would make 512 small pages that the collapse then copies (2 GiB on Linux
6.18: 1.3 to 4.9 s).
Decision: write one byte per block, where a lack of memory becomes an error. Read the byte through the mapping, and
collapse (0.27 s). `fallocate` then makes the tail that is not a whole block.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from itertools import islice

from .. import limits
from ..backend import Availability, Capabilities, Offer, Progress
from ..errors import BackendUnavailableError
from ..geometry import PAGE, PMD, pick_address, round_up
from ..linux import libc, mempolicy, proc
from ..linux.descriptors import lock
from ..units import MIB
from ._files import reserve
from .shm import Shm

_STEP = 128 * MIB
_TRIES = 3
_MOST_MISSED = 17
"""Blocks without a 2 MiB page, one after the other, at which `take` tries no more: each try costs a compaction."""
_MOVED = 2
"""Of 512 pages, no node has more than one more than another."""
_TRANSIENT = (errno.EAGAIN, errno.EBUSY, errno.ENOMEM)
"""madvise(2): the page was busy, the memory group was at its limit, no 2 MiB block was free just then."""


class Thp(Shm):
    """Files on tmpfs made of 2 MiB pages."""

    name = "thp"
    capabilities = Capabilities(
        leaf_size=PMD,
        file_unit=PAGE,
        map_unit=PAGE,
        sparse=True,
        handle_rights=False,
        shared_tables="none: 4 KiB per process and GiB",
        needs="tmpfs on /dev/shm, Linux 6.1 or newer",
        offer=Offer(
            "a region of mshare",
            "Linux 6.1 or newer; no privilege, no setting.",
            (),
            "measured by our benchmarks",
        ),
    )

    def availability(self) -> Availability:
        available = super().availability()
        root = self.root()
        if not available.usable or root is None:
            return available
        status = os.statvfs(root)
        if status.f_blocks and status.f_bavail * status.f_frsize < 2 * PMD:
            return available  # too full to tell; a reservation there will fail with the reason
        return self._able()

    def _able(self) -> Availability:
        problem = _collapse_problem(self)
        if problem is not None:
            return Availability(False, problem, "use Linux 6.1 or newer with CONFIG_TRANSPARENT_HUGEPAGE=y")
        return Availability(True, "MADV_COLLAPSE works")

    def populate(self, fd: int, length: int, addr: int, mapped: int, progress: Progress | None) -> None:
        blocks_end = mapped - mapped % PMD
        nodes = mempolicy.interleaved()
        for start in range(0, blocks_end, _STEP):
            end = min(start + _STEP, blocks_end)
            for offset in range(start, end, PMD):
                _write(fd, offset, nodes)
                ctypes.c_ubyte.from_address(addr + offset).value  # noqa: B018
            _collapse(fd, addr, start, end)
            if progress is not None:
                progress(end, length)
        reserve(fd, length, None)

    def take(self, fd: int, start: int, end: int, addr: int) -> None:
        """Small pages come first, in one call for all or none, and are then gathered. Other processes may store into
        the range, so that the byte of `populate` cannot be written. A block for which the kernel has no 2 MiB page
        stays in small pages."""
        super().take(fd, start, end, addr)
        first, last = round_up(start, PMD), end - end % PMD
        nodes = mempolicy.interleaved()
        if len(nodes) > 1:
            for offset in range(first, last, PMD):
                _lean(addr + offset, nodes[offset // PMD % len(nodes)])
        _gather(addr + first, addr + last)


def _write(fd: int, offset: int, nodes: tuple[int, ...]) -> None:
    """Make the first page of a block. `nodes`: those over which this thread's policy spreads pages. The kernel would
    spread by the number of the page, which is even for each first page: all blocks would lie on one of two nodes."""
    if len(nodes) > 1:
        node = nodes[offset // PMD % len(nodes)]
        mempolicy.under(mempolicy.PREFERRED, (node,), os.pwrite, fd, b"\0", offset)
    else:
        os.pwrite(fd, b"\0", offset)


def _lean(addr: int, node: int) -> None:
    """Have the collapse of a block, whose pages are spread evenly, make the huge page on `node`: a collapse takes the
    node that has most of the block's pages. If pages cannot be moved, the kernel takes any of the nodes."""
    pages = range(addr, addr + PMD, PAGE)
    with suppress(OSError):
        elsewhere = (page for page, there in zip(pages, mempolicy.nodes_of(pages), strict=True) if 0 <= there != node)
        mempolicy.move(list(islice(elsewhere, _MOVED)), node)


def _gather(start: int, end: int) -> None:
    """Collapse the blocks between two addresses, as far as the kernel has 2 MiB pages."""
    missed = 0
    for at in range(start, end, _STEP):
        step_end = min(at + _STEP, end)
        if _gathered(at, step_end):
            continue
        for block in range(at, step_end, PMD):  # one has failed, and the kernel may have left out those behind it
            missed = 0 if _gathered(block, block + PMD) else missed + 1
            if missed == _MOST_MISSED:
                return


def _gathered(start: int, end: int) -> bool:
    for _ in range(_TRIES):
        try:
            libc.madvise(start, end - start, libc.MADV_COLLAPSE)
            return True
        except OSError as error:
            if error.errno not in _TRANSIENT:  # another process has just given the memory back
                return False
    return False


def _collapse(fd: int, addr: int, start: int, end: int) -> None:
    for attempt in range(_TRIES):
        try:
            libc.madvise(addr + start, end - start, libc.MADV_COLLAPSE)
            return
        except OSError as error:
            if attempt + 1 < _TRIES and error.errno in _TRANSIENT:
                continue
            # A full file system answers EINVAL here; fallocate answers ENOSPC, so let it speak first.
            os.posix_fallocate(fd, start, end - start)
            raise BackendUnavailableError(
                f"the kernel gave no 2 MiB pages ({os.strerror(error.errno or 0)})",
                "free or compact memory (echo 1 > /proc/sys/vm/compact_memory), or use backend shm",
            ) from error


_seen_to_work: set[str | None] = set()
"""Roots where `MADV_COLLAPSE` was seen to work. A failure is not kept: memory may be fragmented only now."""


def _collapse_problem(backend: Thp) -> str | None:
    """Try `MADV_COLLAPSE` on one block, and return why the call does not work on files there; None if it works."""
    if backend.root() in _seen_to_work:
        return None
    try:
        with backend.open_file() as fd:
            os.ftruncate(fd, PMD)
            os.pwrite(fd, b"\0", 0)
            with lock:  # a child forked by another thread must not inherit the mapping
                addr = pick_address(os.getpid(), PMD, (vma.span for vma in proc.maps()))
                with libc.mapped(fd, PMD, addr=addr) as block:
                    ctypes.c_ubyte.from_address(block).value  # noqa: B018
                    libc.madvise(block, PMD, libc.MADV_COLLAPSE)
    except OSError as error:
        if error.errno in _TRANSIENT:  # only this moment was bad: `populate` tries again
            return None
        limits.reraise(error)
        return f"MADV_COLLAPSE failed: {error.strerror}"
    _seen_to_work.add(backend.root())
    return None
