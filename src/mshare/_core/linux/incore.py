"""Which pages of an object are in memory, block by block of 2 MiB. May depend on: libc, pagemap, proc, procfs,
descriptors, files, geometry, typed.

*Facts.* mincore(2) tells it of all pages of an object on tmpfs, whichever process has touched them: 75 ns per page, 20
ns where the page is a part of a huge page (measured, Linux 6.18). No call tells which blocks are huge pages. A mapping
at a multiple of 2 MiB shows it: the first touch of a huge page fills in a 2 MiB leaf.
*Decision.* The object is mapped here for reading, 1 GiB at a time, so that the page tables of this process stay below
3 MiB. One page per block is touched, by MADV_POPULATE_READ, and only a page that is in memory: to touch another page
would take memory, or be SIGBUS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..geometry import PAGE, PMD, PUD, pick_address, round_up
from ..procfs import parse_smaps
from ..typed import NamedTuple
from . import libc, proc
from .descriptors import Descriptor
from .files import read_bytes
from .pagemap import Scanner, is_missing

PAGES_PER_BLOCK = PMD // PAGE


class Block(NamedTuple):
    """2 MiB of an object, at a multiple of 2 MiB from its start."""

    number: int
    """The block begins at 2 MiB times this."""
    pages: int
    """Pages of 4 KiB that are in memory: 0 to 512."""
    huge: bool
    """They are one huge page."""
    swapped: int = 0
    """Pages that the object has, and that are not in memory."""


def blocks(fd: int, size: int) -> Iterator[Block]:
    """Yield the blocks of the object behind `fd`, from its start to `size` bytes. Cost: 20 ms per GiB of 4 KiB pages.

    Where a whole GiB of the object is a hole, its blocks are omitted: an object can have terabytes of them.
    Raises `OSError` if the object cannot be mapped. It may shrink or grow in the meantime.
    """
    start = 0
    with Descriptor("/proc/self/pagemap", os.O_RDONLY) as pagemap:
        while start < size:
            start = _next_data(fd, start, size) & -PUD
            if start >= size:
                break
            length = min(PUD, -(-(size - start) // PMD) * PMD)
            addr = pick_address(os.getpid(), length, (vma.span for vma in proc.maps()))
            at: list[int] = []
            try:
                libc.mmap_into(at, fd, length, writable=False, addr=addr, offset=start)
                yield from _window(pagemap, at[0], length, start // PMD)
            finally:
                libc.munmap_from(at, length)
            start += PUD


def _next_data(fd: int, start: int, size: int) -> int:
    """Return where the object has data from `start` on; a multiple of 1 GiB behind `size` if it has none."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return round_up(size, PUD)


def with_swapped(fd: int, block: Block) -> Block:
    """Return the block with its pages that are in swap. Pages that the object does not have are holes of the file."""
    if block.huge:
        return block
    has, at, end = 0, block.number * PMD, (block.number + 1) * PMD
    try:
        while at < end:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            has += max(0, min(at, end) - start) // PAGE
    except OSError:  # ENXIO: no data from there on
        pass
    return block._replace(swapped=max(0, has - block.pages))


def _window(pagemap: int, addr: int, length: int, first: int) -> list[Block]:
    there = libc.mincore(addr, length).translate(_LOWEST_BIT)
    counts = [there.count(1, at, at + PAGES_PER_BLOCK) for at in range(0, len(there), PAGES_PER_BLOCK)]
    for index, count in enumerate(counts):
        if count:
            page = there.index(1, index * PAGES_PER_BLOCK)
            try:
                libc.madvise(addr + page * PAGE, PAGE, libc.MADV_POPULATE_READ)
            except OSError:  # it went just now
                counts[index] = 0
    huge = _huge(pagemap, addr, length)
    return [Block(first + index, count, index in huge) for index, count in enumerate(counts)]


_LOWEST_BIT = bytes(value & 1 for value in range(256))


def _huge(pagemap: int, addr: int, length: int) -> set[int]:
    """Return the blocks of the mapping that have a 2 MiB leaf."""
    try:
        ranges = Scanner().blocks(pagemap, addr, addr + length)
        return {(at - addr) // PMD for start, end, huge in ranges if huge for at in range(start, end, PMD)}
    except OSError as error:
        if not is_missing(error):
            raise
    return _huge_by_smaps(addr, length)


def _huge_by_smaps(addr: int, length: int) -> set[int]:
    """The same before Linux 6.7. smaps counts the leaves of each mapping, so every block becomes a mapping: of two
    neighbours, one is kept from children, and the kernel does not merge what differs in that."""
    for at in range(addr, addr + length, 2 * PMD):
        libc.madvise(at, PMD, libc.MADV_DONTFORK)
    areas = parse_smaps(read_bytes("/proc/self/smaps"))
    return {(area.start - addr) // PMD for area in areas if area.pmd_mapped and addr <= area.start < addr + length}
