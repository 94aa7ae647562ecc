"""The 2 MiB pages of a program's shared memory, seen from outside. May depend on: linux, procfs, geometry."""

from __future__ import annotations

import os
from typing import NamedTuple

from mshare._core.geometry import PMD
from mshare._core.linux import incore, proc
from mshare._core.linux.descriptors import Descriptor
from mshare._core.procfs import Vma


def shared_memory(pid: int) -> Vma:
    """Return the largest shared mapping of a process: the program's own shared memory."""
    found = (vma for vma in proc.maps(pid) if vma.perms.endswith("s"))
    return max(found, key=lambda vma: vma.span.end - vma.span.start)


class Leaves(NamedTuple):
    """The 2 MiB blocks of the program's shared memory, whichever process uses them."""

    huge: int
    """One page of 2 MiB each."""
    left: int
    """An eighth in memory or more, and not huge: `--fill later` takes these (preload/later.c)."""


def leaves(pid: int) -> Leaves | None:
    """Count the whole blocks of the program's shared memory; None without root."""
    vma = shared_memory(pid)
    size = (vma.span.end - vma.span.start) // PMD * PMD
    try:
        with Descriptor(f"/proc/{pid}/map_files/{vma.span.start:x}-{vma.span.end:x}", os.O_RDONLY) as fd:
            found = list(incore.blocks(fd, size))
    except PermissionError:
        return None
    huge = sum(block.huge for block in found)
    return Leaves(huge, sum(not block.huge and block.pages * 8 >= incore.PAGES_PER_BLOCK for block in found))
