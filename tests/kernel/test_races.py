"""Changes of an address space from outside, or at the wrong moment: reaping, moving pages, memory limits."""

import array
import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Callable

import pytest

from tests.helpers.waiting import eventually

from . import mfs
from .programs import Program
from .regions import Regions

SECONDS = int(os.environ.get("MSHARE_RACE_SECONDS", "5"))
PIDFD_OPEN, PROCESS_MADVISE, PROCESS_MRELEASE = 434, 440, 448
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE = 20, 21, 22, 23, 25
HWPOISON, SOFT_OFFLINE = 100, 101


class Group:
    """A memory cgroup of its own."""

    def __init__(self, path: str) -> None:
        self.path = path

    def set(self, field: str, value: object) -> None:
        with open(f"{self.path}/{field}", "w") as f:
            f.write(str(value))

    def get(self, field: str) -> str:
        with open(f"{self.path}/{field}") as f:
            return f.read()


@pytest.fixture
def group(control_group: Callable[..., str]) -> Group:
    return Group(control_group("memory"))


def pattern(page: int) -> int:
    return (page * 37 + 11) % 251


def fill(addr: int, pages: int) -> None:
    for page in range(pages):
        mfs.poke(addr + page * mfs.PAGE, pattern(page))


def intact(addr: int, pages: int) -> bool:
    return all(mfs.peek(addr + page * mfs.PAGE) == pattern(page) for page in range(pages))


def nobody_left(fd: int) -> None:
    eventually(lambda: not mfs.info(fd)["attachments"], lambda: mfs.pids(fd))


@pytest.mark.timeout(300)
def test_attaching_and_dying_while_others_punch_and_look(region: Regions, client: Program) -> None:
    fd = region(64)
    client("races", region.path, SECONDS)
    nobody_left(fd)
    mfs.protect(fd, 0, 32 * mfs.PAGE, mfs.READWRITE)


def test_reaping_a_dying_process(region: Regions) -> None:
    """process_mrelease() and the OOM reaper walk the tables of read-only attachments before their owner is gone."""
    fd = region(64)
    reaped = 0

    def dying(ready: mfs.Ready, wait: mfs.Wait) -> None:
        own = os.open(region.path, os.O_RDONLY)
        addr = mfs.mmap(own, mfs.UNIT, prot=mfs.PROT_READ)
        private = bytearray(8 << 20)
        ready()
        while True:
            mfs.peek(addr + 3 * mfs.PAGE)
            private[0] ^= 1

    for _ in range(97):  # some kernels leave little time
        if reaped > 5:
            break
        child = mfs.Child(dying)
        child.wait_ready()
        pidfd = mfs.check(mfs.libc.syscall(PIDFD_OPEN, child.pid, 0))
        os.kill(child.pid, signal.SIGKILL)
        while mfs.libc.syscall(PROCESS_MRELEASE, pidfd, 0) == 0:
            reaped += 1
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        os.close(pidfd)
        assert child.result() == -signal.SIGKILL
    assert reaped > 5, "the processes were gone before they could be reaped"
    nobody_left(fd)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_the_oom_killer_takes_an_attached_process(region: Regions, group: Group, flags: int) -> None:
    fd = region(503)
    group.set("memory.max", "48M")

    def hog() -> None:
        group.set("cgroup.procs", os.getpid())
        own = os.open(region.path, flags)
        addr = mfs.mmap(own, mfs.UNIT, prot=mfs.PROT_READ | (mfs.PROT_WRITE if flags else 0))
        assert all(mfs.peek(addr + page * mfs.PAGE) == 0 for page in range(503))
        bytearray(200 << 20)

    assert mfs.outcome(hog) == -signal.SIGKILL
    assert "oom_kill 0" not in group.get("memory.events").splitlines()
    nobody_left(fd)
    assert mfs.info(fd)["pages"] == 503


def test_reclaim_leaves_the_region(region: Regions, group: Group) -> None:
    """The kernel must reclaim all memory that it can from the cgroup of the pages."""
    fd = region(1, reserve=False)
    os.ftruncate(fd, 1009 * mfs.PAGE)

    def child() -> None:
        group.set("cgroup.procs", os.getpid())
        addr = mfs.mmap(fd, mfs.UNIT)
        fill(addr, 1009)
        for _ in range(3):
            with contextlib.suppress(OSError):  # EAGAIN: there was not so much
                group.set("memory.reclaim", "64M")
        assert intact(addr, 1009)

    assert mfs.outcome(child) == 0
    assert mfs.info(fd)["pages"] == 1009
    current = int(group.get("memory.current"))
    assert current >= 1009 * mfs.PAGE, "the pages are charged to another cgroup, so the test tested nothing"
    os.ftruncate(fd, 0)


def test_populate_beyond_the_end(attached: tuple[int, int]) -> None:
    fd, addr = attached
    for advice in (POPULATE_READ, POPULATE_WRITE):
        mfs.refused(errno.EFAULT, mfs.madvise, addr, 17 * mfs.PAGE, advice)
        mfs.refused(errno.EFAULT, mfs.madvise, addr + 16 * mfs.PAGE, mfs.PAGE, advice)
    assert mfs.info(fd)["pages"] == 16


@pytest.mark.parametrize("advice", [COLD, PAGEOUT, 3, COLLAPSE])  # 3: WILLNEED
def test_advice_from_another_process(region: Regions, advice: int) -> None:
    fd = region(16)

    def target(ready: mfs.Ready, wait: mfs.Wait) -> None:
        addr = mfs.mmap(fd, mfs.UNIT, addr=0x300000000000)
        fill(addr, 16)
        ready()
        wait()
        assert intact(addr, 16)

    child = mfs.Child(target)
    child.wait_ready()
    pidfd = mfs.check(mfs.libc.syscall(PIDFD_OPEN, child.pid, 0))
    span = array.array("Q", [0x300000000000, 16 * mfs.PAGE])
    mfs.libc.syscall(PROCESS_MADVISE, pidfd, ctypes.c_void_p(span.buffer_info()[0]), 1, advice, 0)
    child.proceed()
    assert child.result() == 0
    os.close(pidfd)


def test_a_page_does_not_move(attached: tuple[int, int]) -> None:
    """Soft offlining is migration on demand.  It must be refused: nothing knows which processes map the page."""
    fd, addr = attached
    fill(addr, 16)
    with pytest.raises(OSError):
        mfs.madvise(addr + 3 * mfs.PAGE, mfs.PAGE, SOFT_OFFLINE)
    assert intact(addr, 16)
    assert mfs.info(fd)["pages"] == 16


def test_a_bad_page_harms_nobody_else(attached: tuple[int, int]) -> None:
    """A memory error that is reported by software: the other pages go on, and the bad one goes with its hole."""
    fd, addr = attached
    fill(addr, 16)
    with open("/proc/meminfo") as f:
        knows_bad_pages = "HardwareCorrupted" in f.read()
    if not knows_bad_pages:  # a kernel without CONFIG_MEMORY_FAILURE
        mfs.refused(errno.EINVAL, mfs.madvise, addr + 3 * mfs.PAGE, mfs.PAGE, HWPOISON)
        return
    with contextlib.suppress(OSError):
        mfs.madvise(addr + 3 * mfs.PAGE, mfs.PAGE, HWPOISON)
    assert mfs.meminfo("HardwareCorrupted") >= 4, "no page was taken for bad"
    assert all(mfs.peek(addr + page * mfs.PAGE) == pattern(page) for page in range(16) if page != 3)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 3 * mfs.PAGE, mfs.PAGE)
    assert mfs.peek(addr + 3 * mfs.PAGE) == 0
    mfs.poke(addr + 3 * mfs.PAGE, pattern(3))
    assert intact(addr, 16)
