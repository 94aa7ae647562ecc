"""A page with a memory error: nobody uses it any more, and all others go on."""

import contextlib
import ctypes
import errno
import os
import pathlib
import select
import subprocess
from collections.abc import Callable, Iterator

import pytest

from . import mfs, oracle
from .programs import Program
from .regions import Regions

pytestmark = pytest.mark.only_if(oracle.KNOWS_BAD_PAGES)

HWPOISON, SOFT_OFFLINE = 100, 101
BUS_MCEERR_AR = 4
MEMORY = pathlib.Path("/sys/devices/system/memory")
DEBUG = pathlib.Path("/sys/kernel/debug/hwpoison")
BAD = 3
PAGES = 16


def byte(page: int) -> int:
    return page * 7 + 1


def report_by_madvise(addr: int) -> None:
    """Report the error by the process's own address."""
    with contextlib.suppress(OSError):  # EBUSY: the kernel could not free it at once
        mfs.madvise(addr, mfs.PAGE, HWPOISON)


def report_by_sysfs(addr: int) -> None:
    """Report the error by the physical address, as a management tool does."""
    with contextlib.suppress(OSError):
        (MEMORY / "hard_offline_page").write_text(hex(oracle.frame(addr) * mfs.PAGE))


def report_by_injection(addr: int) -> None:
    """Report the error as the machine check handler does."""
    subprocess.run(["modprobe", "hwpoison-inject"], check=True)
    with contextlib.suppress(OSError):
        (DEBUG / "corrupt-pfn").write_text(str(oracle.frame(addr)))


class Toucher:
    """A process that is attached, and reports the results of its accesses."""

    def __init__(self, program: str, path: str, mode: str) -> None:
        self.process = subprocess.Popen(
            [program, "touch", path, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        assert self.says() == "ready"

    def says(self) -> str:
        assert select.select([self.output], [], [], 60)[0], "no answer"
        return self.output.readline().strip()

    def __call__(self, how: str, page: int) -> str:
        self.input.write(f"{how} {page}\n")
        return self.says()

    def end(self) -> None:
        self.input.close()
        self.process.wait()
        self.output.close()


@pytest.fixture
def toucher(probe: Program, region: Regions) -> Iterator[Callable[[str], Toucher]]:
    started = []

    def start(mode: str) -> Toucher:
        started.append(Toucher(probe.program, region.path, mode))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def filled(region: Regions) -> Iterator[tuple[int, int]]:
    """A region of 16 pages, each with its own byte, and the region's address in this process."""
    fd = region(PAGES)
    addr = mfs.mmap(fd, mfs.UNIT)
    for page in range(PAGES):
        mfs.poke(addr + page * mfs.PAGE, byte(page))
    yield fd, addr
    mfs.munmap(addr, mfs.UNIT)


def gone(toucher: Toucher, how: str = "r") -> None:
    assert toucher(how, BAD) == f"signal 7 code {BUS_MCEERR_AR} page {BAD}"


def neighbours_go_on(toucher: Toucher, addr: int) -> None:
    for page in range(PAGES):
        if page != BAD:
            assert toucher("r", page) == f"value {mfs.peek(addr + page * mfs.PAGE)}"


# The file in /sys is there on kernels with memory hot-plug only.
REPORTS = [report_by_madvise, report_by_injection]
if (MEMORY / "hard_offline_page").exists():
    REPORTS.append(report_by_sysfs)


@pytest.mark.parametrize("report", REPORTS)
def test_it_is_gone_from_every_process(
    filled: tuple[int, int], toucher: Callable[[str], Toucher], report: Callable[[int], None]
) -> None:
    """Processes that have used the page get the signal, and so do later processes.  The caller does not use the page.

    Failed before: the other processes read the page as if nothing were the matter ("value 22").
    """
    _fd, addr = filled
    before = [toucher("rw"), toucher("ro")]
    for each in before:
        neighbours_go_on(each, addr)
        assert each("r", BAD) == f"value {byte(BAD)}"
    report(addr + BAD * mfs.PAGE)
    for each in before:
        gone(each)
    gone(before[0], "w")
    after = [toucher("rw"), toucher("ro")]
    for each in after:
        gone(each)
    for each in before + after:
        neighbours_go_on(each, addr)
        if each in (before[0], after[0]):
            assert each("w", BAD + 1) == "stored"


def test_system_calls_refuse_it(filled: tuple[int, int]) -> None:
    """A copy by the kernel from a bad page is a machine check in kernel mode, which ends the machine.

    Failed before: read(2) returned the byte, write(2) stored into the page.
    """
    fd, addr = filled
    report_by_madvise(addr + BAD * mfs.PAGE)
    mfs.refused(errno.EIO, os.pread, fd, 1, BAD * mfs.PAGE)
    mfs.refused(errno.EIO, os.pwrite, fd, b"x", BAD * mfs.PAGE)
    handle = mfs.map_only(fd, False)
    mfs.refused(errno.EIO, os.pread, handle, 1, BAD * mfs.PAGE + 100)
    os.close(handle)
    assert os.pread(fd, 1, (BAD - 1) * mfs.PAGE) == bytes([byte(BAD - 1)])
    assert os.pwrite(fd, b"x", (BAD + 1) * mfs.PAGE) == 1
    # The bytes before the bad page are copied, as with any error in the middle.
    assert len(os.pread(fd, 3 * mfs.PAGE, (BAD - 2) * mfs.PAGE)) == 2 * mfs.PAGE
    assert os.pwrite(fd, bytes(3 * mfs.PAGE), (BAD - 2) * mfs.PAGE) == 2 * mfs.PAGE


def test_a_system_call_whose_buffer_it_is_fails(filled: tuple[int, int]) -> None:
    """Failed before: write(2) to a pipe copied from it."""
    fd, addr = filled
    ends = os.pipe()
    report_by_madvise(addr + BAD * mfs.PAGE)
    bad = ctypes.c_void_p(addr + BAD * mfs.PAGE)
    assert mfs.libc.write(ends[1], bad, ctypes.c_size_t(1)) == -1
    assert ctypes.get_errno() == errno.EFAULT
    with open("/proc/self/mem", "rb", buffering=0) as mem:
        mem.seek(addr + BAD * mfs.PAGE)
        with pytest.raises(OSError):
            mem.read(1)
    for each in ends:
        os.close(each)
    assert mfs.info(fd)["pages"] == PAGES


@pytest.mark.parametrize("what", ["reserve", "protect", "dontneed", "seal"])
def test_it_does_not_come_back(filled: tuple[int, int], toucher: Callable[[str], Toucher], what: str) -> None:
    """Operations that write leaves leave the bad page's leaf empty.  Failed before: the leaf was never gone."""
    fd, addr = filled
    each = [toucher("rw"), toucher("ro")]
    report_by_madvise(addr + BAD * mfs.PAGE)
    if what == "reserve":
        with contextlib.suppress(OSError):
            mfs.fallocate(fd, 0, 0, PAGES * mfs.PAGE)
    elif what == "protect":
        mfs.protect(fd, 0, PAGES * mfs.PAGE, mfs.READ)
        mfs.protect(fd, 0, PAGES * mfs.PAGE, mfs.READWRITE)
    elif what == "dontneed":
        mfs.madvise(addr, mfs.UNIT, 4)
    else:
        mfs.seal(fd)
    for one in each:
        gone(one)
        neighbours_go_on(one, addr)


def test_punching_frees_it_and_the_frame_is_not_used_again(
    filled: tuple[int, int], toucher: Callable[[str], Toucher]
) -> None:
    """The hole gets another frame.  In the end the kernel is told that the frame is good."""
    fd, addr = filled
    bad = oracle.frame(addr + BAD * mfs.PAGE)
    one = toucher("rw")
    report_by_madvise(addr + BAD * mfs.PAGE)
    assert oracle.frame_flags(bad) & oracle.HWPOISON
    mfs.fallocate(fd, mfs.PUNCH_HOLE, BAD * mfs.PAGE, mfs.PAGE)
    assert mfs.info(fd)["pages"] == PAGES - 1
    assert one("r", BAD) == "value 0"
    assert one("w", BAD) == "stored"
    assert os.pread(fd, 1, BAD * mfs.PAGE) == b"w"
    assert mfs.peek(addr + BAD * mfs.PAGE) == ord("w")  # a touch links the unit again, for pagemap
    assert oracle.frame(addr + BAD * mfs.PAGE) != bad
    flags = oracle.frame_flags(bad)
    assert flags & oracle.HWPOISON
    assert not flags & oracle.BUDDY
    subprocess.run(["modprobe", "hwpoison-inject"], check=True)
    with contextlib.suppress(OSError):  # not every kernel can
        (DEBUG / "unpoison-pfn").write_text(str(bad))
        assert not oracle.frame_flags(bad) & oracle.HWPOISON
    neighbours_go_on(one, addr)


def test_truncating_and_removing_free_it(region: Regions, mounted: str) -> None:
    """The checks of the fixture afterwards find no page that is missing."""
    for name in ("truncated", "removed"):
        fd = region(PAGES, name=name)
        addr = mfs.mmap(fd, mfs.UNIT)
        mfs.poke(addr + BAD * mfs.PAGE, 1)
        report_by_madvise(addr + BAD * mfs.PAGE)
        mfs.munmap(addr, mfs.UNIT)
        if name == "truncated":
            os.ftruncate(fd, 0)
            assert mfs.info(fd)["pages"] == 0
        os.unlink(f"{mounted}/{name}")


def soft_by_madvise(addr: int) -> None:
    mfs.madvise(addr, mfs.PAGE, SOFT_OFFLINE)


def soft_by_sysfs(addr: int) -> None:
    (MEMORY / "soft_offline_page").write_text(hex(oracle.frame(addr) * mfs.PAGE))


@pytest.mark.parametrize("report", [soft_by_madvise, soft_by_sysfs])
def test_soft_offlining_does_not_move_a_page(
    filled: tuple[int, int], toucher: Callable[[str], Toucher], report: Callable[[int], None]
) -> None:
    """Soft offlining is migration on demand.  It is refused, because nothing knows which processes map the page."""
    fd, addr = filled
    each = [toucher("rw"), toucher("ro")]
    before = oracle.frame(addr + BAD * mfs.PAGE)
    with pytest.raises(OSError):
        report(addr + BAD * mfs.PAGE)
    assert oracle.frame(addr + BAD * mfs.PAGE) == before
    assert not oracle.frame_flags(before) & oracle.HWPOISON
    for one in each:
        assert one("r", BAD) == f"value {byte(BAD)}"
        neighbours_go_on(one, addr)
    assert mfs.info(fd)["pages"] == PAGES
