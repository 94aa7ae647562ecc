"""A right that is taken away is gone on every CPU when the call returns.

The other process spins in user space on its own CPU, makes no system call, and has the translation cached.  Without
mshare_flush_all() in mshare_restrict() that process goes on forever.  Without mshare_flush_mm() in mshare_cut_links()
a thread goes on forever after munmap in another thread.  Both were checked by hand, see docs/kernel.md.
"""

import contextlib
import errno
import os
import select
import subprocess
from collections.abc import Iterator

import pytest

from . import mfs
from .programs import Program
from .regions import Regions

LIMIT_S = 10  # far more than an interrupt takes under emulation


@pytest.fixture
def alone_on_last_cpu() -> Iterator[None]:
    """Move every other process off the CPU of the spinning one, because a switch to another process also flushes."""
    cpus = os.sched_getaffinity(0)
    assert len(cpus) > 1, "needs two CPUs"
    moved = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.sched_getaffinity(int(name)) == cpus:
                os.sched_setaffinity(int(name), cpus - {max(cpus)})
                moved.append(int(name))
    yield
    for pid in moved:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cpus)


class Spinner:
    """Starts programs that spin on the last CPU."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        self.started.append(subprocess.Popen([self.program, *arguments], stdout=subprocess.PIPE, text=True))
        return self.started[-1]

    def __call__(self, path: str, offset: int, what: str) -> subprocess.Popen[str]:
        process = self.run("spin", path, str(offset), what)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture(params=["4K", "2M"])
def fd(region: Regions, request: pytest.FixtureRequest) -> int:
    """A region of 16 pages, or of one page of 2 MiB."""
    made = region(16) if request.param == "4K" else region(512, huge=True)
    assert mfs.info(made)["huge_pages"] == (request.param == "2M")
    return made


@pytest.fixture
def spinner(client: Program, alone_on_last_cpu: None) -> Iterator[Spinner]:
    made = Spinner(client.program)
    yield made
    made.end()


def verdict(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
    assert ready, "still running on a stale translation"
    return process.stdout.readline().strip()


@pytest.mark.parametrize("what", ["read", "write"])
def test_no_access(fd: int, region: Regions, spinner: Spinner, what: str) -> None:
    process = spinner(region.path, 5 * mfs.PAGE, what)
    mfs.protect(fd, 5 * mfs.PAGE, mfs.PAGE, mfs.NONE)
    assert verdict(process) == "signal 11"


def test_read_only_stops_writers(fd: int, region: Regions, spinner: Spinner) -> None:
    process = spinner(region.path, 5 * mfs.PAGE, "write")
    mfs.protect(fd, 0, 16 * mfs.PAGE, mfs.READ)
    assert verdict(process) == "signal 11"


def test_punched_hole_reads_as_zero(fd: int, region: Regions, spinner: Spinner) -> None:
    os.pwrite(fd, b"x", 5 * mfs.PAGE)
    process = spinner(region.path, 5 * mfs.PAGE, "read")
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 5 * mfs.PAGE, mfs.PAGE)
    assert verdict(process) == "value 0"


@pytest.mark.parametrize("what", ["read", "write"])
def test_truncated_page_is_gone(fd: int, region: Regions, spinner: Spinner, what: str) -> None:
    process = spinner(region.path, 5 * mfs.PAGE, what)
    os.ftruncate(fd, 3 * mfs.PAGE)
    assert verdict(process) == "signal 7"


@pytest.mark.parametrize("how", ["munmap", "mremap"])
def test_detached_attachment_is_gone_for_other_threads(fd: int, region: Regions, spinner: Spinner, how: str) -> None:
    assert verdict(spinner.run("detach", region.path, how)) == "signal 11"


def test_a_store_is_seen(fd: int, region: Regions, spinner: Spinner) -> None:
    process = spinner(region.path, 5 * mfs.PAGE, "read")
    os.pwrite(fd, b"x", 5 * mfs.PAGE)
    assert verdict(process) == "value 120"


def test_protection_back_and_forth(attached: tuple[int, int], region: Regions) -> None:
    fd, addr = attached
    readonly = mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)
    mfs.poke(addr + 3 * mfs.PAGE, 1)

    def rights(page: int) -> tuple[bool, ...]:
        at = page * mfs.PAGE
        return tuple(
            mfs.outcome(f) == 0
            for f in (
                lambda: mfs.peek(addr + at),
                lambda: mfs.poke(addr + at, 1),
                lambda: mfs.peek(readonly + at),
                lambda: mfs.poke(readonly + at, 1),
            )
        )

    full, read, none = (True, True, True, False), (True, False, True, False), (False,) * 4
    assert rights(3) == full
    for prot, expected in (
        (mfs.READ, read),
        (mfs.NONE, none),
        (mfs.READWRITE, full),
        (mfs.NONE, none),
        (mfs.READ, read),
        (mfs.READWRITE, full),
    ):
        mfs.protect(fd, 3 * mfs.PAGE, 2 * mfs.PAGE, prot)
        assert [rights(page) for page in (2, 3, 4, 5)] == [full, expected, expected, full]
    assert mfs.peek(addr + 3 * mfs.PAGE) == 1
    mfs.munmap(readonly, mfs.UNIT)


def test_protected_pages_resist_files_operations(region: Regions) -> None:
    fd = region(16)
    os.pwrite(fd, b"keep", 4 * mfs.PAGE)
    mfs.protect(fd, 4 * mfs.PAGE, mfs.PAGE, mfs.READ)
    mfs.refused(errno.EACCES, os.pwrite, fd, b"x", 4 * mfs.PAGE)
    mfs.refused(errno.EACCES, mfs.fallocate, fd, mfs.PUNCH_HOLE, 0, 16 * mfs.PAGE)
    mfs.refused(errno.EACCES, os.ftruncate, fd, 4 * mfs.PAGE)
    mfs.refused(errno.EACCES, os.open, region.path, os.O_RDWR | os.O_TRUNC)
    assert os.pread(fd, 4, 4 * mfs.PAGE) == b"keep"
    os.ftruncate(fd, 5 * mfs.PAGE)
    assert os.pwrite(fd, b"x" * mfs.PAGE * 2, 3 * mfs.PAGE) == mfs.PAGE
    mfs.protect(fd, 4 * mfs.PAGE, mfs.PAGE, mfs.NONE)
    mfs.refused(errno.EACCES, os.pread, fd, 1, 4 * mfs.PAGE)
    mfs.protect(fd, 0, 5 * mfs.PAGE, mfs.READWRITE)
    assert os.pread(fd, 4, 4 * mfs.PAGE) == b"keep"
