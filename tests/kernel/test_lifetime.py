"""A region lives as long as its name, its descriptors and its attachments; death of a process takes only its own."""

import contextlib
import os
import random
import signal
import subprocess
import threading

import pytest

from tests.helpers.waiting import eventually

from . import mfs
from .programs import Program
from .regions import Regions

KILLS = int(os.environ.get("MSHARE_KILLS", "200"))


def test_unlinked_region_lives_while_attached(mounted: str, region: Regions) -> None:
    fd = os.open(f"{mounted}/gone", os.O_RDWR | os.O_CREAT, 0o600)
    mfs.fallocate(fd, 0, 0, 16 * mfs.PAGE)
    addr = mfs.mmap(fd, mfs.UNIT)
    os.close(fd)
    os.unlink(f"{mounted}/gone")
    free = os.statvfs(mounted).f_bfree
    mfs.poke(addr + mfs.PAGE, 1)
    assert mfs.peek(addr + mfs.PAGE) == 1
    mfs.munmap(addr, mfs.UNIT)
    assert os.statvfs(mounted).f_bfree == free + 16 + mfs.FIRST


def test_creator_killed_at_random_moments(mounted: str) -> None:
    """The name appears complete or not at all.  The next process attaches and finds the written data."""
    rng = random.Random(71)
    complete = 0
    for turn in range(KILLS):
        path = f"{mounted}/r{turn}"

        def create(ready: mfs.Ready, wait: mfs.Wait, path: str = path) -> None:
            ready()
            fd = os.open(mounted, os.O_TMPFILE | os.O_RDWR, 0o600)
            mfs.fallocate(fd, 0, 0, 61 * mfs.PAGE)
            addr = mfs.mmap(fd, mfs.UNIT)
            for page in range(61):
                mfs.poke(addr + page * mfs.PAGE, page + 1)
            mfs.link(fd, path)
            wait()

        child = mfs.Child(create)
        child.wait_ready()
        threading.Event().wait(rng.random() * 0.015)  # the moment is the random input of the test
        assert child.kill() == -signal.SIGKILL
        if not os.path.exists(path):
            continue
        complete += 1
        fd = os.open(path, os.O_RDWR)
        facts = mfs.info(fd)
        assert (facts["pages"], facts["attachments"], facts["processes"]) == (61, 0, 0)
        addr = mfs.mmap(fd, mfs.UNIT)
        assert [mfs.peek(addr + page * mfs.PAGE) for page in range(61)] == list(range(1, 62))
        mfs.munmap(addr, mfs.UNIT)
        os.close(fd)
        os.unlink(path)
    print(f"{complete} of {KILLS} were complete when killed")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("units", [1, 37])
@pytest.mark.parametrize("action", ["map", "fault", "fork", "protect", "dontneed", "mremap"])
def test_killed_inside(region: Regions, client: Program, action: str, units: int) -> None:
    """map: mmap and munmap, in turn; with many units more of them end half-way."""
    fd = region(251)
    os.ftruncate(fd, units * mfs.UNIT)
    os.pwrite(fd, b"stays", 200 * mfs.PAGE)
    rng = random.Random(action)
    for _ in range(max(1, KILLS // 10)):
        process = subprocess.Popen(
            [client.program, "victim", region.path, action], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        threading.Event().wait(rng.random() * 0.02)
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child of its fork, an orphan now
        # The orphan is dying: init waits for it, not we.
        eventually(lambda: not mfs.info(fd)["processes"], lambda: mfs.pids(fd))
        assert mfs.info(fd)["attachments"] == 0
        assert os.pread(fd, 5, 200 * mfs.PAGE) == b"stays"
    mfs.protect(fd, 0, 251 * mfs.PAGE, mfs.READWRITE)


def test_signals_do_not_disturb_attaching(region: Regions, client: Program) -> None:
    """A signal in the middle of mmap or fork does not lose the region, neither for the process nor for the child."""
    fd = region(16)
    os.pwrite(fd, b"x", 0)
    assert client("signals", region.path, 53) == "lost=0 refused=0\n"


def test_threads_fault_while_one_unmaps(region: Regions) -> None:
    fd = region(64, reserve=False)

    def child() -> None:
        addr = mfs.mmap(fd, mfs.UNIT)

        def read() -> None:
            while True:
                for page in range(64):
                    mfs.peek(addr + page * mfs.PAGE)

        for _ in range(3):
            threading.Thread(target=read, daemon=True).start()
        for _ in range(30):
            mfs.madvise(addr, mfs.UNIT, 4)
            mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 32 * mfs.PAGE)
        mfs.munmap(addr, mfs.UNIT)
        threading.Event().wait(20)

    assert mfs.outcome(child) == -signal.SIGSEGV
    assert mfs.info(fd)["attachments"] == 0


def test_exec_and_vfork_leave_the_region_alone(attached: tuple[int, int]) -> None:
    fd, addr = attached
    mfs.poke(addr, 5)
    for _ in range(5):
        assert subprocess.run(["/bin/true"], check=False, close_fds=False).returncode == 0
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert mfs.info(fd)["attachments"] == 1
    assert mfs.peek(addr) == 5


def test_module_in_use_cannot_be_removed(attached: tuple[int, int]) -> None:
    done = subprocess.run(["rmmod", "mshare"], check=False, capture_output=True)
    assert done.returncode != 0
    assert subprocess.run(["umount", mfs.ROOT], check=False, capture_output=True).returncode != 0


def test_cgroup_limit_holds_for_pages_and_tables(region: Regions) -> None:
    """Pages that a process makes in a sparse region are charged to the process's cgroup."""
    fd = region(1, reserve=False)
    os.ftruncate(fd, mfs.UNIT)
    group = "/sys/fs/cgroup/mshare-limit"
    os.mkdir(group)
    try:
        with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
            f.write("+memory")
        with open(f"{group}/memory.max", "w") as f:
            f.write("24M")

        def fill() -> None:
            with open(f"{group}/cgroup.procs", "w") as f:
                f.write(str(os.getpid()))
            addr = mfs.mmap(fd, mfs.UNIT)
            for page in range(0, mfs.UNIT // mfs.PAGE, 7):
                mfs.poke(addr + page * mfs.PAGE, 1)

        assert mfs.outcome(fill) == -signal.SIGKILL
        facts = mfs.info(fd)
        assert facts["pages"] * mfs.PAGE + facts["table_bytes"] < 25 << 20
        assert facts["attachments"] == 0
        os.ftruncate(fd, 0)
    finally:
        os.rmdir(group)


def test_memory_pressure_does_not_touch_the_region(attached: tuple[int, int]) -> None:
    _fd, addr = attached
    for page in range(16):
        mfs.poke(addr + page * mfs.PAGE, page + 1)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")
    with open("/proc/sys/vm/compact_memory", "w") as f:
        f.write("1")
    assert [mfs.peek(addr + page * mfs.PAGE) for page in range(16)] == list(range(1, 17))
