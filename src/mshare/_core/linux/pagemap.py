"""A walk of /proc/PID/pagemap finds a process's page-table entries. May depend on: geometry.

Since Linux 6.7 (commit 52526ca7fdb9) the ioctl PAGEMAP_SCAN returns ranges of addresses with entries, and says which
ranges are mapped by 2 MiB leaves; measured, 3 ns per entry. Older kernels have 8 bytes per page, which do not tell
leaves. `Scanner` uses the ioctl. Without the ioctl, the caller uses `read_blocks` and reads the leaves from smaps. Both
need only the right to ptrace the process, because page frame numbers are not used.
Source: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from ..geometry import PAGE, PMD

_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED, _HUGE = 1 << 3, 1 << 4, 1 << 6
_ARGUMENT = struct.Struct("12Q")
_RANGES = 8  # dense memory fits into one range, and scattered pages of one block need no more than the first few
_BLOCKS_AT_ONCE = 64
_NO_ENTRY = bytes(byte for byte in range(256) if not byte & 0xC0)  # top byte of an entry: neither present nor swapped
_SAMPLES = 16


class Scanner:
    """PAGEMAP_SCAN with a private buffer. Each thread needs its own `Scanner`."""

    def __init__(self) -> None:
        self._ranges = (ctypes.c_uint64 * (3 * _RANGES))()

    def _scan(self, pagemap: int, start: int, end: int) -> tuple[int, list[int]]:
        """Return the address that the kernel has reached, and triples of start, end, categories."""
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size,
                0,
                start,
                end,
                0,
                ctypes.addressof(self._ranges),
                _RANGES,
                0,
                0,
                0,
                _PRESENT | _SWAPPED,
                _HUGE,
            )
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument, True)
        return struct.unpack_from("Q", argument, 32)[0], self._ranges[: 3 * count]

    def blocks(self, pagemap: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield the ranges of whole 2 MiB blocks with entries, cut to `start` and `end`: start, end, and whether the
        block has 2 MiB leaves. Adjacent ranges of a kind come as one.

        Raises `OSError`: ENOTTY if the kernel has no such call, ESRCH if the process is gone.
        """
        pending: tuple[int, int, bool] | None = None
        at = start
        while at < end:
            reached, ranges = self._scan(pagemap, at, end)
            if not ranges:
                break
            for index in range(0, len(ranges), 3):
                first = max(start, ranges[index] & -PMD)
                last = min(end, (ranges[index + 1] + PMD - 1) & -PMD)
                huge = bool(ranges[index + 2] & _HUGE)
                if pending is not None and pending[2] == huge and first <= pending[1]:
                    pending = (pending[0], max(pending[1], last), huge)
                    continue
                if pending is not None:
                    yield pending
                pending = (first, last, huge)
            at = max(at + PAGE, (reached + PMD - 1) & -PMD)
        if pending is not None:
            yield pending

    def leaves(self, pagemap: int, start: int, end: int) -> set[int]:
        """Return the leaf sizes (4 KiB, 2 MiB) at up to 16 places spread over `start` to `end`. Raises as `blocks`."""
        found = set()
        step = max(PMD, (end - start) // _SAMPLES & -PMD)
        for at in range(start, end, step):
            _, ranges = self._scan(pagemap, at, min(end, at + PMD))
            found |= {PMD if ranges[index] & _HUGE else PAGE for index in range(2, len(ranges), 3)}
        return found


def is_missing(error: OSError) -> bool:
    """Tell whether `error` means that the kernel has no PAGEMAP_SCAN."""
    return error.errno in (errno.ENOTTY, errno.EINVAL)


def read_blocks(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the ranges of 2 MiB blocks, cut to `start` and `end`, that have entries, by reading 8 bytes per page:
    start, end, and whether all entries of each block are there (as they are where it is mapped by a 2 MiB leaf).

    Adjacent ones of a kind come as one. Raises `OSError` if the process is gone.
    """
    pending: tuple[int, int, bool] | None = None
    at = start
    while at < end:
        chunk_end = min(end, (at & -PMD) + _BLOCKS_AT_ONCE * PMD)
        top_bytes = os.pread(pagemap, (chunk_end - at) // PAGE * 8, at // PAGE * 8)[7::8]
        if not top_bytes:
            break
        position = 0
        while at < chunk_end and position < len(top_bytes):
            block_end = min(chunk_end, (at & -PMD) + PMD)
            pages = (block_end - at) // PAGE
            there = len(top_bytes[position : position + pages].translate(None, _NO_ENTRY))
            if there:
                full = there == PMD // PAGE
                if pending is not None and pending[2] == full and pending[1] == at:
                    pending = (pending[0], block_end, full)
                else:
                    if pending is not None:
                        yield pending
                    pending = (at, block_end, full)
            position += pages
            at = block_end
        at = chunk_end
    if pending is not None:
        yield pending
