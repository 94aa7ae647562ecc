"""Calls on an attachment: the allowed ones and the refused ones."""

import ctypes
import errno
import mmap as stdlib_mmap
import os
import signal
import struct

import pytest

from . import mfs
from .regions import Regions

DONTNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE = 4, 20, 21, 22, 23, 25


def test_whole_units_only(region: Regions) -> None:
    fd = region(16)
    for length in (mfs.PAGE, 16 * mfs.PAGE, mfs.UNIT - mfs.PAGE, mfs.UNIT + mfs.PAGE):
        mfs.refused(errno.EINVAL, mfs.mmap, fd, length)
    mfs.refused(errno.EINVAL, mfs.mmap, fd, mfs.UNIT, offset=mfs.PAGE)
    mfs.refused(errno.EINVAL, mfs.mmap, fd, mfs.UNIT, addr=0x300000001000, flags=mfs.MAP_SHARED | mfs.MAP_FIXED)


def test_hint_and_default_addresses_are_aligned(region: Regions) -> None:
    fd = region(16)
    for hint in (None, 0x300000000000, 0x300000012000):
        addr = mfs.mmap(fd, 3 * mfs.UNIT, addr=hint)
        assert addr % mfs.UNIT == 0
        assert hint != 0x300000000000 or addr == hint
        mfs.munmap(addr, 3 * mfs.UNIT)
    mfs.refused(errno.ENOMEM, mfs.mmap, fd, 1 << 47)


def test_noreplace_keeps_its_promise(region: Regions) -> None:
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT, addr=0x300000000000, flags=mfs.MAP_SHARED | mfs.MAP_FIXED_NOREPLACE)
    assert addr == 0x300000000000
    mfs.refused(errno.EEXIST, mfs.mmap, fd, mfs.UNIT, addr=addr, flags=mfs.MAP_SHARED | mfs.MAP_FIXED_NOREPLACE)
    mfs.munmap(addr, mfs.UNIT)


def test_refused_kinds(region: Regions) -> None:
    fd = region(16)
    mfs.refused(errno.EINVAL, mfs.mmap, fd, mfs.UNIT, flags=mfs.MAP_PRIVATE)
    mfs.refused(errno.EPERM, mfs.mmap, fd, mfs.UNIT, prot=mfs.PROT_READ | mfs.PROT_EXEC)
    mfs.refused(errno.EINVAL, mfs.mmap, fd, mfs.UNIT, prot=mfs.PROT_NONE)
    readonly = os.open(region.path, os.O_RDONLY)
    mfs.refused(errno.EACCES, mfs.mmap, readonly, mfs.UNIT)
    os.close(readonly)


def test_attachment_is_indivisible(attached: tuple[int, int]) -> None:
    _fd, addr = attached
    for offset, length in ((0, mfs.PAGE), (mfs.PAGE, mfs.PAGE), (mfs.UNIT - mfs.PAGE, mfs.PAGE)):
        mfs.refused(errno.EINVAL, mfs.munmap, addr + offset, length)
        with pytest.raises(OSError) as caught:  # 6.1 makes ENOMEM of every error here
            mfs.mmap(-1, length, flags=mfs.MAP_PRIVATE | mfs.MAP_ANONYMOUS | mfs.MAP_FIXED, addr=addr + offset)
        assert caught.value.errno in (errno.EINVAL, errno.ENOMEM)
    for prot in (0, mfs.PROT_READ, mfs.PROT_READ | mfs.PROT_WRITE | mfs.PROT_EXEC):
        mfs.refused(errno.EACCES, lambda prot=prot: mfs.check(mfs.libc.mprotect(addr, mfs.UNIT, prot)))
        mfs.refused(errno.EACCES, lambda prot=prot: mfs.check(mfs.libc.mprotect(addr, mfs.PAGE, prot)))
    mfs.poke(addr, 3)
    assert mfs.peek(addr) == 3


def test_mapping_something_else_over_the_whole(attached: tuple[int, int]) -> None:
    fd, addr = attached
    mfs.poke(addr, 9)
    flags = mfs.MAP_PRIVATE | mfs.MAP_ANONYMOUS | mfs.MAP_FIXED | mfs.MAP_NORESERVE
    assert mfs.mmap(-1, mfs.UNIT, flags=flags, addr=addr) == addr
    assert mfs.info(fd)["attachments"] == 0
    assert mfs.peek(addr) == 0
    mfs.poke(addr, 1)
    mfs.mmap(fd, mfs.UNIT, flags=mfs.MAP_SHARED | mfs.MAP_FIXED, addr=addr)
    assert mfs.peek(addr) == 9


def mremap(addr: int, old: int, new: int, flags: int, to: int | None = None) -> int:
    return mfs.check(mfs.libc.mremap(addr, old, new, flags, to), mfs.FAILED)


def test_mremap_moves_the_whole_and_nothing_else(attached: tuple[int, int]) -> None:
    fd, addr = attached
    mfs.poke(addr + mfs.PAGE, 5)
    mfs.refused(errno.EFAULT, mremap, addr, mfs.UNIT, 2 * mfs.UNIT, 1)
    mfs.refused(errno.EFAULT, mremap, addr, 0, mfs.UNIT, 1)
    mfs.refused(errno.EINVAL, mremap, addr, mfs.UNIT, mfs.PAGE, 0)
    mfs.refused(errno.EINVAL, mremap, addr, mfs.UNIT, mfs.UNIT, 1 | 2 | 4, 0x300000000000)  # DONTUNMAP
    mfs.refused(errno.EINVAL, mremap, addr, mfs.UNIT, mfs.UNIT, 3, 0x300000001000)
    assert mremap(addr, mfs.UNIT, mfs.UNIT, 3, 0x300000000000) == 0x300000000000
    assert mfs.peek(0x300000000000 + mfs.PAGE) == 5
    assert mfs.outcome(lambda: mfs.peek(addr)) == -signal.SIGSEGV
    mfs.poke(0x300000000000 + mfs.PAGE, 6)
    assert mremap(0x300000000000, mfs.UNIT, mfs.UNIT, 3, addr) == addr
    assert mfs.peek(addr + mfs.PAGE) == 6
    assert mfs.info(fd)["attachments"] == 1


@pytest.mark.parametrize("advice", [DONTNEED, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE])
def test_advice_leaves_the_data(attached: tuple[int, int], advice: int) -> None:
    fd, addr = attached
    for page in range(16):
        mfs.poke(addr + page * mfs.PAGE, page + 1)
    for offset, length in ((0, 16 * mfs.PAGE), (mfs.PAGE, mfs.PAGE)):
        mfs.madvise(addr + offset, length, advice)
        assert [mfs.peek(addr + page * mfs.PAGE) for page in range(16)] == list(range(1, 17))
    assert mfs.info(fd)["pages"] == 16


@pytest.mark.parametrize("advice", [8, 12, 14, COLLAPSE, 102])  # FREE MERGEABLE HUGEPAGE COLLAPSE GUARD_INSTALL
def test_advice_without_meaning_does_no_harm(attached: tuple[int, int], advice: int) -> None:
    fd, addr = attached
    mfs.poke(addr, 4)
    mfs.libc.madvise(addr, mfs.UNIT, advice)
    assert mfs.peek(addr) == 4
    assert mfs.info(fd)["pages"] == 16


def test_madvise_remove_punches_for_all(attached: tuple[int, int]) -> None:
    fd, addr = attached
    mfs.poke(addr + 2 * mfs.PAGE, 4)
    mfs.madvise(addr + 2 * mfs.PAGE, mfs.PAGE, 9)
    assert mfs.info(fd)["pages"] == 15
    assert mfs.peek(addr + 2 * mfs.PAGE) == 0


def test_populate_and_mlockall_stop_at_the_end(region: Regions) -> None:
    fd = region(16, reserve=False)
    addr = mfs.mmap(fd, mfs.UNIT)

    def lock_all() -> None:
        mfs.libc.mlockall(1)
        mfs.libc.mlock(addr, mfs.UNIT)

    assert mfs.outcome(lock_all) == 0
    mfs.munmap(addr, mfs.UNIT)
    addr = mfs.mmap(fd, mfs.UNIT, flags=mfs.MAP_SHARED | 0x8000)  # MAP_POPULATE
    assert mfs.info(fd)["pages"] == 16
    mfs.munmap(addr, mfs.UNIT)


def test_beyond_the_end_is_sigbus(attached: tuple[int, int]) -> None:
    fd, addr = attached
    assert mfs.outcome(lambda: mfs.peek(addr + 16 * mfs.PAGE)) == -signal.SIGBUS
    assert mfs.outcome(lambda: mfs.poke(addr + mfs.UNIT - 1, 1)) == -signal.SIGBUS
    os.ftruncate(fd, 3 * mfs.PAGE)
    assert mfs.outcome(lambda: mfs.peek(addr + 3 * mfs.PAGE)) == -signal.SIGBUS
    os.ftruncate(fd, 20 * mfs.PAGE)
    assert mfs.peek(addr + 19 * mfs.PAGE) == 0


def test_many_units(region: Regions) -> None:
    fd = region(1, reserve=False)
    os.ftruncate(fd, 40 * mfs.UNIT)
    addr = mfs.mmap(fd, 40 * mfs.UNIT)
    for unit in (0, 1, 31, 32, 39):
        mfs.poke(addr + unit * mfs.UNIT + 5, unit + 1)
    pid = os.fork()
    if not pid:
        ok = all(mfs.peek(addr + unit * mfs.UNIT + 5) == unit + 1 for unit in (0, 1, 31, 32, 39))
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    second = mfs.mmap(fd, mfs.UNIT, offset=32 * mfs.UNIT)
    assert mfs.peek(second + 5) == 33
    mfs.munmap(second, mfs.UNIT)
    mfs.munmap(addr, 40 * mfs.UNIT)


def test_userfaultfd_is_kept_out(attached: tuple[int, int]) -> None:
    """Asynchronous write protection (6.7) would put markers into the shared tables."""
    _fd, addr = attached
    uffd = mfs.check(mfs.libc.syscall(323, os.O_CLOEXEC))
    try:
        import fcntl

        for features in (1 << 15, 0):  # WP_ASYNC, none
            try:
                fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=QQQ", 0xAA, features, 0)))
                break
            except OSError:
                continue
        for mode in (1, 2, 4, 3):
            raw = bytearray(struct.pack("=QQQQ", addr, mfs.UNIT, mode, 0))
            mfs.refused(errno.EINVAL, fcntl.ioctl, uffd, 0xC020AA00, raw)
    finally:
        os.close(uffd)
    assert mfs.peek(addr) == 0


@pytest.mark.parametrize("what", ["1", "2", "3", "4"])
def test_clear_refs(attached: tuple[int, int], what: str) -> None:
    _fd, addr = attached
    mfs.poke(addr, 8)
    with open("/proc/self/clear_refs", "w") as f:
        f.write(what)
    assert mfs.peek(addr) == 8
    mfs.poke(addr, 9)
    assert mfs.peek(addr) == 9


def test_observers(attached: tuple[int, int]) -> None:
    _fd, addr = attached
    mfs.poke(addr, 8)
    with open("/proc/self/smaps") as f:
        text = f.read()
    assert "/sys/fs/mshare/region" in text or "/region" in text
    with open("/proc/self/numa_maps") as f:
        f.read()
    with open("/proc/self/pagemap", "rb") as f:
        f.seek(addr // mfs.PAGE * 8)
        assert struct.unpack("=Q", f.read(8))[0] >> 63, "present in pagemap"
    vector = (ctypes.c_ubyte * 16)()
    mfs.check(mfs.libc.mincore(ctypes.c_void_p(addr), ctypes.c_size_t(16 * mfs.PAGE), vector))
    assert all(vector)


def test_the_standard_mmap_module_serves(region: Regions) -> None:
    fd = region(16)
    os.ftruncate(fd, mfs.UNIT)
    with stdlib_mmap.mmap(fd, mfs.UNIT) as m:
        m[5] = 77
        assert os.pread(fd, 1, 5) == b"M"
