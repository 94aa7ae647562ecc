"""Map-only handles and sealed regions: root tries every way to more rights."""

import errno
import mmap as stdlib_mmap
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from . import mfs
from .programs import Program
from .regions import Regions

SEALED, MAP_ONLY = 2, 4


@pytest.fixture(params=[False, True], ids=["read-only", "writable"])
def handle(request: pytest.FixtureRequest, region: Regions) -> Iterator[tuple[int, int, bool]]:
    """(the region's descriptor, a handle of it, may the handle write); byte 0 of each page is 0x55."""
    fd = region(16)
    for page in range(16):
        os.pwrite(fd, b"\x55", page * mfs.PAGE)
    made = mfs.map_only(fd, request.param)
    yield fd, made, request.param
    os.close(made)


def test_it_maps_and_reads_and_tells(handle: tuple[int, int, bool]) -> None:
    fd, made, writable = handle
    assert os.get_inheritable(made) is False
    assert os.fstat(made)[:2] == os.fstat(fd)[:2]  # mode, inode number
    assert (os.fstat(made).st_dev, os.fstat(made).st_size) == (os.fstat(fd).st_dev, os.fstat(fd).st_size)
    assert os.lseek(made, 0, os.SEEK_END) == 16 * mfs.PAGE
    assert os.pread(made, 1, mfs.PAGE) == b"\x55"
    addr = mfs.mmap(made, mfs.UNIT, prot=3 if writable else 1)
    assert mfs.peek(addr + mfs.PAGE) == 0x55
    if writable:
        mfs.poke(addr, 7)
        assert os.pread(fd, 1, 0) == b"\x07"
    told = mfs.info(made)
    assert (told["attachments"], told["flags"] & MAP_ONLY) == (1, MAP_ONLY)
    assert mfs.info(fd)["flags"] & MAP_ONLY == 0
    assert mfs.pids(made) == (1, {os.getpid()})
    inode = os.fstat(fd).st_ino
    with open("/proc/self/maps") as maps:
        line = next(line for line in maps if int(line.partition("-")[0], 16) == addr)
    assert int(line.split()[4]) == inode
    mfs.munmap(addr, mfs.UNIT)


def test_it_shares_the_tables_with_everybody_else(handle: tuple[int, int, bool]) -> None:
    fd, made, writable = handle
    prot = 3 if writable else 1
    first = mfs.mmap(fd, mfs.UNIT, prot=prot)
    tables = mfs.info(fd)["table_bytes"]
    filled = mfs.info(fd)["filled"]
    second = mfs.mmap(made, mfs.UNIT, prot=prot)
    assert [mfs.peek(second + page * mfs.PAGE) for page in range(16)] == [0x55] * 16
    assert (mfs.info(fd)["table_bytes"], mfs.info(fd)["filled"]) == (tables, filled)
    for addr in (first, second):
        mfs.munmap(addr, mfs.UNIT)


def test_it_can_do_nothing_else(handle: tuple[int, int, bool]) -> None:
    fd, made, writable = handle
    before = os.fstat(fd)
    mfs.refused(errno.ENXIO, os.open, f"/proc/self/fd/{made}", os.O_RDWR)
    mfs.refused(errno.ENXIO, os.open, f"/proc/self/fd/{made}", os.O_RDONLY)
    for size in (0, 99 * mfs.PAGE):
        with pytest.raises(OSError):
            os.ftruncate(made, size)
    with pytest.raises(OSError):
        os.pwrite(made, b"x", 0)
    mfs.refused(errno.EPERM, os.fchmod, made, 0o777)
    mfs.refused(errno.EPERM, os.fchown, made, 0, 0)
    mfs.refused(errno.ENOENT, mfs.link, made, f"{mfs.ROOT}/linked")
    with pytest.raises(OSError):
        mfs.fallocate(made, mfs.PUNCH_HOLE, 0, mfs.PAGE)
    with pytest.raises(OSError):
        mfs.fallocate(made, 0, 0, 99 * mfs.PAGE)
    for call in (
        mfs.seal,
        lambda made: mfs.protect(made, 0, mfs.PAGE, mfs.NONE),
        lambda made: mfs.set_base(made, 1 << 45),
    ):
        mfs.refused(errno.ENOTTY, call, made)
    mfs.refused(errno.ENOTTY, mfs.map_only, made, True)
    addr = mfs.mmap(made, mfs.UNIT, prot=3 if writable else 1)
    mfs.refused(errno.EACCES, lambda: mfs.check(mfs.libc.mprotect(addr, mfs.UNIT, 3)))
    with pytest.raises(OSError):
        mfs.madvise(addr, mfs.UNIT, 9)  # MADV_REMOVE
    name = next(name for name in os.listdir("/proc/self/map_files") if int(name.partition("-")[0], 16) == addr)
    mfs.refused(errno.ENXIO, os.open, f"/proc/self/map_files/{name}", os.O_RDWR)
    if not writable:
        duplicate = os.dup(made)
        mfs.refused(errno.EACCES, mfs.mmap, duplicate, mfs.UNIT)
        os.close(duplicate)
        assert mfs.outcome(lambda: mfs.poke(addr, 1)) == -signal.SIGSEGV
        mem = os.open("/proc/self/mem", os.O_RDWR)
        with pytest.raises(OSError):
            os.pwrite(mem, b"x", addr)
        os.close(mem)
    mfs.munmap(addr, mfs.UNIT)
    assert [os.pread(fd, 1, page * mfs.PAGE) for page in range(16)] == [b"\x55"] * 16
    after = os.fstat(fd)
    assert (before.st_mode, before.st_size, before.st_nlink) == (after.st_mode, after.st_size, after.st_nlink)


def test_what_the_controller_takes_away_is_gone_from_handles_too(handle: tuple[int, int, bool]) -> None:
    fd, made, writable = handle
    addr = mfs.mmap(made, mfs.UNIT, prot=3 if writable else 1)
    mfs.protect(fd, 0, mfs.PAGE, mfs.NONE)
    assert mfs.outcome(lambda: mfs.peek(addr)) == -signal.SIGSEGV
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 4 * mfs.PAGE, mfs.PAGE)
    assert mfs.peek(addr + 4 * mfs.PAGE) == 0
    mfs.protect(fd, 0, mfs.PAGE, mfs.READWRITE)
    os.ftruncate(fd, 2 * mfs.PAGE)
    assert mfs.outcome(lambda: mfs.peek(addr + 5 * mfs.PAGE)) == -signal.SIGBUS
    os.pwrite(fd, b"\x55", 2 * mfs.PAGE - 1)
    mfs.munmap(addr, mfs.UNIT)


def test_a_handle_alone_keeps_the_region(mounted: str) -> None:
    free = os.statvfs(mounted).f_bfree
    fd = os.open(f"{mounted}/gone", os.O_RDWR | os.O_CREAT)
    mfs.fallocate(fd, 0, 0, 16 * mfs.PAGE)
    os.pwrite(fd, b"here", 0)
    made = mfs.map_only(fd, True)
    os.unlink(f"{mounted}/gone")
    os.close(fd)
    assert os.pread(made, 4, 0) == b"here"
    addr = mfs.mmap(made, mfs.UNIT)
    os.close(made)
    assert mfs.peek(addr) == ord("h")

    def stores(ready: mfs.Ready, wait: mfs.Wait) -> None:
        ready()
        wait()
        mfs.poke(addr, 1)

    child = mfs.Child(stores)
    child.wait_ready()
    mfs.munmap(addr, mfs.UNIT)
    assert os.statvfs(mounted).f_bfree == free - 16 - mfs.FIRST
    child.proceed()
    assert child.result() == 0
    assert os.statvfs(mounted).f_bfree == free


def test_who_may_make_one(region: Regions) -> None:
    fd = region(16)
    readonly = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EBADF, mfs.map_only, readonly, True)
    os.close(mfs.map_only(readonly, False))
    writeonly = os.open(region.path, os.O_WRONLY)
    mfs.refused(errno.EBADF, mfs.map_only, writeonly, False)
    mfs.refused(errno.EINVAL, mfs.ioctl_handle, fd, 2)
    for each in (readonly, writeonly):
        os.close(each)


def test_handles_do_not_count_as_inodes(region: Regions, mounted: str) -> None:
    """Handles were counted before (97), so a process that may read a region could take all inodes."""
    fd = region(1)
    free = os.statvfs(mounted).f_ffree
    made = [mfs.map_only(fd, False) for _ in range(97)]
    assert os.statvfs(mounted).f_ffree == free
    for each in made:
        os.close(each)
    assert os.statvfs(mounted).f_ffree == free


# ---- sealed ----


def test_a_sealed_region_is_read_only_for_everybody_at_once(region: Regions) -> None:
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.poke(addr, 7)
    made = mfs.map_only(fd, True)

    def stores(ready: mfs.Ready, wait: mfs.Wait) -> None:
        mfs.poke(addr + mfs.PAGE, 7)
        ready()
        wait()
        mfs.poke(addr, 9)

    child = mfs.Child(stores)
    child.wait_ready()
    mfs.seal(fd)
    mfs.seal(fd)
    child.proceed()
    assert child.result() == -signal.SIGSEGV
    assert (mfs.peek(addr), mfs.peek(addr + mfs.PAGE)) == (7, 7)
    assert mfs.info(fd)["flags"] & SEALED
    for page in (0, 9):
        assert mfs.outcome(partial(mfs.poke, addr + page * mfs.PAGE, 1)) == -signal.SIGSEGV
    mfs.refused(errno.EPERM, os.pwrite, fd, b"x", 0)
    mfs.refused(errno.EPERM, os.ftruncate, fd, 0)
    mfs.refused(errno.EPERM, os.ftruncate, fd, 99 * mfs.PAGE)
    mfs.refused(errno.EPERM, mfs.fallocate, fd, mfs.PUNCH_HOLE, 0, mfs.PAGE)
    mfs.refused(errno.EPERM, mfs.fallocate, fd, 0, 0, 99 * mfs.PAGE)
    mfs.refused(errno.EPERM, mfs.protect, fd, 0, mfs.PAGE, mfs.READWRITE)
    mfs.refused(errno.EPERM, mfs.mmap, fd, mfs.UNIT)
    mfs.refused(errno.EPERM, mfs.mmap, made, mfs.UNIT)
    mfs.refused(errno.EPERM, os.open, region.path, os.O_WRONLY | os.O_TRUNC)
    reopened = os.open(region.path, os.O_RDWR)
    mfs.refused(errno.EPERM, os.pwrite, reopened, b"x", 0)
    os.close(reopened)
    mfs.refused(errno.EPERM, mfs.map_only, fd, True)
    with pytest.raises(OSError):
        mfs.madvise(addr, mfs.UNIT, 9)
    mem = os.open("/proc/self/mem", os.O_RDWR)
    with pytest.raises(OSError):
        os.pwrite(mem, b"x", addr)
    os.close(mem)
    again = mfs.mmap(fd, mfs.UNIT, prot=1)
    assert mfs.peek(again) == 7
    for each in (addr, again):
        mfs.munmap(each, mfs.UNIT)
    os.close(made)


def test_holes_of_a_sealed_region_read_as_zeroes(region: Regions) -> None:
    fd = region(16, reserve=False)
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.poke(addr, 7)
    mfs.seal(fd)
    assert mfs.outcome(lambda: mfs.poke(addr + 5 * mfs.PAGE, 1)) == -signal.SIGSEGV
    assert mfs.peek(addr + 5 * mfs.PAGE) == 0
    assert mfs.outcome(lambda: mfs.poke(addr + 5 * mfs.PAGE, 1)) == -signal.SIGSEGV
    assert mfs.outcome(lambda: mfs.peek(addr + 16 * mfs.PAGE)) == -signal.SIGBUS
    mfs.munmap(addr, mfs.UNIT)


def test_what_was_protected_stays_so_when_sealed(region: Regions) -> None:
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.protect(fd, 0, mfs.PAGE, mfs.NONE)
    mfs.seal(fd)
    assert mfs.outcome(lambda: mfs.peek(addr)) == -signal.SIGSEGV
    mfs.munmap(addr, mfs.UNIT)


def test_who_may_seal(region: Regions) -> None:
    fd = region(16)
    os.fchmod(fd, 0o666)
    readonly = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EBADF, mfs.seal, readonly)
    os.close(readonly)

    def as_stranger() -> None:
        os.setuid(54321)
        mfs.seal(os.open(region.path, os.O_RDWR))

    assert mfs.outcome(as_stranger) == errno.EPERM
    assert mfs.info(fd)["flags"] & SEALED == 0


def test_sealing_while_another_cpu_stores_without_a_system_call(region: Regions, client: Program) -> None:
    """A stale translation is also flushed here: the writer must die, and the byte must not change any more."""
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT)

    def store_for_ever(ready: mfs.Ready, wait: mfs.Wait) -> None:
        counter = stdlib_mmap.mmap(-1, mfs.PAGE)
        ready()
        while True:
            counter[0] = 1
            mfs.poke(addr, (mfs.peek(addr) + 1) % 256)

    child = mfs.Child(store_for_ever)
    child.wait_ready()
    while mfs.peek(addr) == 0:
        pass
    mfs.seal(fd)
    seen = mfs.peek(addr)
    assert child.result() == -signal.SIGSEGV
    assert mfs.peek(addr) == seen
    mfs.munmap(addr, mfs.UNIT)
