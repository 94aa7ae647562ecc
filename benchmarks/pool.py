"""Huge pages for the time of a run: lent by the kernel, in a private place, and given back.

Facts: every process sees every mount of its mount namespace, and mshare uses the first hugetlbfs that it can reach.
Consequence: all other programs would use a mount of ours as a root. Decision: we use a private mount namespace, which
the kernel removes when we end, in whatever way.

May depend on: linux, units, geometry.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from mshare._core.geometry import PMD, round_up
from mshare._core.linux.mounts import private
from mshare._core.units import format_size

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_SURPLUS = _POOL.with_name("surplus_hugepages")
_SETTLE_S = 5.0
_MEMORY_SHARE = 0.5
"""The pool takes at most this part of the free memory."""


def _stop(number: int, frame: object) -> None:
    del frame
    for other in (signal.SIGTERM, signal.SIGHUP):  # a second signal does not disturb the return of the pages
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def give_back_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an orderly end of this program, so that `pages` gives back its pages."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and so do we
            signal.signal(number, _stop)


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _persistent() -> int:
    """Return the size of the pool, as a write to `vm.nr_hugepages` sets it.

    Facts: pages in use when the pool shrinks stay as surplus until they are freed, and reading the file counts the
    surplus. The kernel frees the surplus of a dead IPC namespace some time after its end. Consequence: a borrower that
    counted the surplus as a part of the pool would leave as many pages behind. Decision: wait until there is no
    surplus, and never count it.
    """
    deadline = time.monotonic() + _SETTLE_S
    while (surplus := int(_SURPLUS.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(_POOL.read_text()) - surplus


@contextmanager
def pages(size_bytes: int) -> Iterator[tuple[int, str]]:
    """Add huge pages for so many bytes to `vm.nr_hugepages`, give (their bytes, reason if none), and remove the pages.

    Users other than root get (0, reason), and so does root when memory is short or fragmented.
    """
    if os.geteuid() != 0:
        yield 0, "hugetlb is missing: as root, the benchmark would lend itself huge pages"
        return
    wanted = round_up(size_bytes, PMD) // PMD
    if wanted * PMD > _free_bytes() * _MEMORY_SHARE:
        yield 0, f"hugetlb is missing: {format_size(wanted * PMD)} is more than half of the free memory"
        return
    # Facts: the kernel adds page after page, for seconds. A signal stops the kernel after some of the pages, and the
    # write raises the handler's exception. Decision: until we know our share, all pages above `before` are ours.
    before = _persistent()
    got: int | None = None
    try:
        _POOL.write_text(str(before + wanted))
        got = _persistent() - before
        if got < wanted:
            yield 0, f"hugetlb is missing: the kernel gave {got} of {wanted} huge pages"
        else:
            yield got * PMD, ""
    finally:
        now = _persistent()
        ours = now - before if got is None else got
        if ours > 0:
            _POOL.write_text(str(max(0, now - min(ours, wanted))))


@contextmanager
def lent(size_bytes: int) -> Iterator[tuple[int, str]]:
    """Give the same as `pages`, with two more pages that are not for regions. $MSHARE_ROOT then has a private hugetlbfs
    with the pages."""
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
