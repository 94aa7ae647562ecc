"""Whether one call takes the page tables of all processes away: tried out. May depend on: geometry, linux.

*Facts.* Linux 6.1 takes page tables away only from the mapping that the call names (`retract_page_tables` in
mm/khugepaged.c). Linux 6.12 and 6.18 take them away from every aligned mapping. Two mappings of one process are two
mappings for that rule also, and `VmPTE` of a process with one thread is exact.
*Consequence.* On an older kernel each process has to be asked for each block: 5 µs a call for what is a huge page.
*Decision.* One block is mapped twice and collapsed once, and `VmPTE` says how many of its two tables have gone.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from ..._core.geometry import PMD, pick_address
from ..._core.linux import libc, proc
from ..._core.linux.descriptors import Descriptor

_PAGES = 2


@cache
def one_call_is_enough() -> bool:
    """Tell whether a call on one mapping of a block frees the page tables of all others. Takes 2 MiB for a moment.

    Where that cannot be tried (no free memory of 2 MiB, `shmem_enabled=deny`), False: to ask all does no harm.
    """
    with Descriptor.made_by(os.memfd_create, "mshare-probe") as fd:
        os.ftruncate(fd, PMD)
        first = pick_address(os.getpid(), PMD, (vma.span for vma in proc.maps()))
        with libc.mapped(fd, PMD, addr=first) as one:
            second = pick_address(os.getpid(), PMD, (vma.span for vma in proc.maps()))
            with libc.mapped(fd, PMD, addr=second) as other:
                for at in (one, other):
                    ctypes.c_ubyte.from_address(at).value = 1
                before = proc.status_fields()["VmPTE"]
                try:
                    libc.madvise(one, PMD, libc.MADV_COLLAPSE)
                except OSError:
                    return False
                return before - proc.status_fields()["VmPTE"] == _PAGES * 4096
