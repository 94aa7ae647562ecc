"""`--fill later`: the thread in the program, and memory that the program gives up before the thread has come to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.helpers.preload import MIB, SIZE, holding, large, preloaded, status
from tests.helpers.worlds import needs_root, own_ipc

GIVES_UP = r"""
import ctypes, json, os, re, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.shmat.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long
libc.syscall.argtypes = [ctypes.c_long] * 7
RW, SHARED, PRIVATE, FIXED, ANONYMOUS = 3, 1, 2, 0x10, 0x20
PAGE, BLOCK, MARK = 4096, 2 << 20, 4 << 20
SYS_MMAP = {"x86_64": 9, "aarch64": 222}[os.uname().machine]
FAILED = ctypes.c_void_p(-1).value

def map_shared(size):
    addr = libc.mmap(None, size, RW, SHARED | ANONYMOUS, -1, 0)
    assert addr != FAILED
    return addr

def attach(size):
    segment = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    addr = libc.shmat(segment, None, 0)
    libc.shmctl(segment, 0, None)
    assert addr != FAILED
    return addr

def leaves(start):
    smaps = open("/proc/self/smaps").read().partition(f"{start:x}-")[2]
    return int(re.search(r"ShmemPmdMapped: +(\d+) kB", smaps)[1]) << 10

cases = json.load(sys.stdin)
size = SIZE_OF_ALL
victims = [attach(size) if case["sysv"] else map_shared(size) for case in cases]
marks = [map_shared(MARK) for _ in range(2)]
own = []
for case, victim in zip(cases, victims):
    start, length = victim + case["start"], case["length"]
    if case["way"] == "munmap":
        assert libc.munmap(start, length) == 0
    elif case["way"] == "shmdt":
        assert libc.shmdt(victim) == 0
    elif case["way"] == "MAP_FIXED":
        assert libc.mmap(start, length, RW, PRIVATE | ANONYMOUS | FIXED, -1, 0) == start
    elif case["way"] == "mremap":
        assert libc.mremap(start, length, length, 3, libc.mmap(None, length, 0, PRIVATE | ANONYMOUS, -1, 0)) != FAILED
    length = -(-length // PAGE) * PAGE
    file = os.memfd_create("own")
    os.ftruncate(file, BLOCK + length)
    assert libc.syscall(SYS_MMAP, start, length, RW, SHARED | FIXED, file, start % BLOCK) == start
    os.close(file)
    ctypes.memset(start, 1, length)
    own.append(start)
for mark in marks:  # the thread looks at all ranges between the leaves of the first mark and those of the second
    ctypes.memset(mark, 1, MARK)
    while leaves(mark) != MARK:
        os.sched_yield()
print(json.dumps([leaves(start) for start in own]))
""".replace("SIZE_OF_ALL", str(SIZE))
"""Memory that the library has taken over goes in some way, and other memory takes its place without the library's
knowledge. The thread never collapses that memory."""


WAYS = ("munmap", "shmdt", "MAP_FIXED", "mremap")


class Case(NamedTuple):
    way: str
    sysv: bool
    start: int
    length: int
    """Bytes from the start of the memory."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    way = draw(st.sampled_from(WAYS))
    sysv = way == "shmdt" or draw(st.booleans())
    pages = SIZE >> 12
    if way == "shmdt" or draw(st.booleans()):
        start, end = 0, pages
    else:
        start = draw(st.integers(0, pages - 512))
        end = draw(st.integers(start + 512, pages))
    odd = draw(st.integers(0, 4095)) if way in ("munmap", "MAP_FIXED") else 0
    return Case(way, sysv, start << 12, ((end - start) << 12) - odd)


@needs_root
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@example(given_up=[Case(way, way == "shmdt", 0, 2 * MIB - 48) for way in WAYS])
@given(given_up=st.lists(cases(), min_size=8, max_size=20))
def test_memory_that_took_the_place_of_what_was_given_up_is_left_alone(built: Path, given_up: list[Case]) -> None:
    with own_ipc():
        done = subprocess.run(
            [sys.executable, "-S", "-c", GIVES_UP],
            input=json.dumps([case._asdict() for case in given_up]),
            capture_output=True,
            text=True,
            check=False,
            env=preloaded(built, "backend=thp,fill=later,min=2M,quiet=yes"),
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0] * len(given_up)


def test_the_thread_has_room_for_the_programs_thread_local_variables(built: Path, programs: Path) -> None:
    """They lie in the stack of each thread."""
    with holding([programs / "thread-local", "anonymous", str(SIZE)], preloaded(built, "backend=thp,fill=later")) as it:
        assert it.stderr is not None
        assert "aligned, 2 MiB leaves come later" in it.stderr.readline()
        assert f"2 MiB leaves for {SIZE // (2 * MIB)} of {SIZE // (2 * MIB)} blocks" in it.stderr.readline()
        assert large(status(it.pid))["leaf_2m_bytes"] == SIZE
