"""Huge pages for the time of a run: lent by the kernel, in a private place, and given back.

Fact: every process sees every mount of its mount namespace, and mshare uses the first hugetlbfs it can reach.
Consequence: a mount of ours would be taken for a root by all other programs. Decision: a mount namespace of our own,
which the kernel takes away with us, however we end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from mshare.geometry import PMD, round_up
from mshare.linux.mounts import private
from mshare.units import format_size

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_MEMORY_SHARE = 0.5
"""At most this part of the free memory goes into the pool."""


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


@contextmanager
def pages(size_bytes: int) -> Iterator[tuple[int, str]]:
    """Add huge pages for so many bytes to `vm.nr_hugepages`, give (their bytes, why if none), and take them away again.

    As another user than root, or where memory is short or in pieces, there are none: (0, reason).
    """
    if os.geteuid() != 0:
        yield 0, "hugetlb is missing: as root, the benchmark would lend itself huge pages"
        return
    wanted = round_up(size_bytes, PMD) // PMD
    if wanted * PMD > _free_bytes() * _MEMORY_SHARE:
        yield 0, f"hugetlb is missing: {format_size(wanted * PMD)} is more than half of the free memory"
        return
    before, got = int(_POOL.read_text()), 0
    try:
        _POOL.write_text(str(before + wanted))
        got = int(_POOL.read_text()) - before
        if got < wanted:
            yield 0, f"hugetlb is missing: the kernel gave {got} of {wanted} huge pages"
        else:
            yield got * PMD, ""
    finally:
        _POOL.write_text(str(max(0, int(_POOL.read_text()) - got)))


@contextmanager
def lent(size_bytes: int) -> Iterator[tuple[int, str]]:
    """Give what `pages` gives, of which two pages are not for regions, with $MSHARE_ROOT at a place that has them: a
    hugetlbfs that nobody else sees."""
    with pages(size_bytes + 2 * PMD) as (got_bytes, problem):
        if not got_bytes:
            yield 0, problem
            return
        root = Path(mkdtemp(prefix=f"mshare-bench-{os.getpid()}-", dir="/dev/shm"))
        saved = os.environ.get("MSHARE_ROOT")
        mounted = False
        try:
            (root / "shm").mkdir()
            (root / "hugetlb").mkdir()
            mount = ["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", str(root / "hugetlb")]
            mounted = private() and subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode == 0
            os.environ["MSHARE_ROOT"] = str(root)
            yield (got_bytes - 2 * PMD, "") if mounted else (0, "hugetlb is missing: hugetlbfs could not be mounted")
        finally:
            if saved is None:
                os.environ.pop("MSHARE_ROOT", None)
            else:
                os.environ["MSHARE_ROOT"] = saved
            if mounted:
                subprocess.run(["umount", "--lazy", str(root / "hugetlb")], check=True)
            shutil.rmtree(root)
