"""`mshare run` and what servers do: they ask for hugetlb's pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mshare._tools.preload import library
from tests.helpers.worlds import needs_root, own_ipc

PAGES = 20
"""hugetlb pages of 2 MiB: enough for one segment of SEGMENTS."""

SEGMENTS = """
import ctypes, json, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_int
libc.shmdt.argtypes = [ctypes.c_void_p]
IPC_CREAT, SHM_HUGETLB, IPC_RMID = 0o1000, 0o4000, 0
size = (33 << 20) + 5000
guards, results = [], []
for pages in range(1, 512, 37):
    guard = mmap.mmap(-1, pages << 12, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # the segment comes below
    guard.write(b"g" * (pages << 12))
    guards.append(guard)
    segment = libc.shmget(0, size, IPC_CREAT | SHM_HUGETLB | 0o600)
    assert segment >= 0, ctypes.get_errno()
    addr = libc.shmat(segment, None, 0)
    error = ctypes.get_errno()
    libc.shmctl(segment, IPC_RMID, None)
    if addr == ctypes.c_void_p(-1).value:
        results.append(f"errno {error}")
        continue
    ctypes.memset(addr, 115, size)
    results.append("whole" if all(set(each[:]) == {ord("g")} for each in guards) else "overwritten")
    libc.shmdt(addr)
    assert "/SYSV" not in open("/proc/self/maps").read()
print(json.dumps(results))
"""


def preloaded(asked: str) -> dict[str, str]:
    return {**os.environ, "LD_PRELOAD": str(library.ensure()), "MSHARE_RUN": asked}


@needs_root
@pytest.mark.parametrize("require", ["no", "yes"])
def test_segments_of_hugetlb_pages_overwrite_nothing(grow_pool: Callable[[int], int], require: str) -> None:
    """The kernel maps whole large pages, more than the segment's size."""
    if grow_pool(PAGES) < PAGES:
        pytest.skip(f"the kernel did not give {PAGES} huge pages")
    with own_ipc():
        done = subprocess.run(
            [sys.executable, "-c", SEGMENTS],
            capture_output=True,
            text=True,
            check=False,
            env=preloaded(f"backend=thp,fill=ahead,require={require}"),
        )
    assert done.returncode == 0, done
    assert set(json.loads(done.stdout)) == {"whole"}
    for line in done.stderr.splitlines():
        assert line.endswith(": hugetlb pages, as the program asked")
