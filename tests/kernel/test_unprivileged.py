"""A user without rights: uid 65534, no capabilities."""

import errno
import os
from collections.abc import Callable

from . import mfs
from .regions import Regions

NOBODY = 65534


def as_nobody(function: Callable[[], object]) -> int:
    def child() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        function()

    return mfs.outcome(child)


def test_modes_decide(region: Regions) -> None:
    fd = region(16, mode=0o600)
    assert as_nobody(lambda: os.open(region.path, os.O_RDONLY)) == errno.EACCES
    os.fchmod(fd, 0o644)

    def reader() -> None:
        own = os.open(region.path, os.O_RDONLY)
        mfs.peek(mfs.mmap(own, mfs.UNIT, prot=mfs.PROT_READ))
        mfs.refused(errno.EACCES, mfs.mmap, own, mfs.UNIT)
        mfs.refused(errno.EACCES, os.open, region.path, os.O_RDWR)
        mfs.refused(errno.EBADF, mfs.protect, own, 0, mfs.PAGE, mfs.NONE)
        mfs.refused(errno.EBADF, mfs.fallocate, own, mfs.PUNCH_HOLE, 0, mfs.PAGE)
        mfs.refused(errno.EACCES, os.truncate, region.path, 0)
        # Reopening through /proc gives no more than the mode does.
        mfs.refused(errno.EACCES, os.open, f"/proc/self/fd/{own}", os.O_RDWR)

    assert as_nobody(reader) == 0


def test_only_the_owner_controls(region: Regions) -> None:
    fd = region(16, mode=0o666)
    os.fchmod(fd, 0o666)

    def writer() -> None:
        own = os.open(region.path, os.O_RDWR)
        mfs.poke(mfs.mmap(own, mfs.UNIT), 1)
        mfs.refused(errno.EPERM, mfs.protect, own, 0, mfs.PAGE, mfs.NONE)
        mfs.refused(errno.EPERM, mfs.set_base, own, 0x300000000000)
        mfs.refused(errno.EPERM, os.fchmod, own, 0o777)

    assert as_nobody(writer) == 0


def test_sticky_directory(region: Regions) -> None:
    region(16)
    assert as_nobody(lambda: os.unlink(region.path)) == errno.EPERM
    assert as_nobody(lambda: os.rename(region.path, f"{mfs.ROOT}/x")) == errno.EPERM


def test_the_root_of_the_mount_and_its_options(mounted: str) -> None:
    def attack() -> None:
        code = mfs.libc.mount(b"m", mounted.encode(), b"msharefs", 0, b"size=1t")
        assert code == -1

    assert as_nobody(attack) == 0


def test_owner_controls_own_region(mounted: str) -> None:
    def owner() -> None:
        fd = os.open(f"{mounted}/mine", os.O_RDWR | os.O_CREAT, 0o600)
        mfs.fallocate(fd, 0, 0, 16 * mfs.PAGE)
        mfs.set_base(fd, 0x300000000000)
        addr = mfs.mmap(fd, mfs.UNIT)
        mfs.protect(fd, 0, mfs.PAGE, mfs.READ)
        mfs.peek(addr)
        mfs.protect(fd, 0, mfs.PAGE, mfs.READWRITE)
        mfs.poke(addr, 1)

    assert as_nobody(owner) == 0
