"""`mshare run` and what servers do: they go into the background, and they ask for hugetlb's pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mshare._tools.preload import library
from mshare._tools.preload.status import status
from tests.helpers.worlds import needs_root, own_ipc

MIB = 1 << 20
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

BACKGROUND = """
import ctypes, mmap, os, sys
memory = mmap.mmap(-1, 64 << 20)
if sys.argv[1] == "daemon":
    ctypes.CDLL(None).daemon(1, 1)
else:
    for fork in range(int(sys.argv[1])):
        if os.fork():
            os._exit(0)
        if fork == 0:
            os.setsid()
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)  # until the server ends
    os._exit(0)
for at in range(0, len(memory), 4096):
    memory[at] = 1
print(os.getpid(), flush=True)
sys.stdin.read()
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


@pytest.mark.parametrize("how", ["1", "2", "daemon"])
def test_a_server_in_the_background_gets_2_mib_leaves_later(how: str) -> None:
    """The process that mapped the memory has ended, and its thread with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", BACKGROUND, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=preloaded("backend=thp,fill=later"),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    server = int(process.stdout.readline())
    try:
        assert process.wait(60) == 0
        assert server != process.pid
        assert "aligned, 2 MiB leaves come later" in process.stderr.readline()
        line = process.stderr.readline()
        while "2 MiB leaves for 32 of 32 blocks" not in line:
            line = process.stderr.readline()
            assert line, "the server has ended"
        assert f"[{server}]" in line
        (memory,) = (each for each in status(server).mappings if each.length == 64 * MIB)
        assert memory.leaf_bytes == 64 * MIB
    finally:
        process.stdin.close()  # the server ends
        process.stdout.close()
        process.stderr.close()
