"""A region is a file."""

import ctypes
import errno
import fcntl
import os
import pathlib
import stat
import subprocess
import time
from collections.abc import Iterator

import pytest

from . import mfs
from .regions import Regions


def test_info_file_tells_the_alignment_and_cannot_go(mounted: str) -> None:
    path = f"{mounted}/mshare_info"
    with open(path) as f:
        assert int(f.read()) == mfs.UNIT
    mfs.refused(errno.EPERM, os.unlink, path)
    mfs.refused(errno.EPERM, os.rename, path, f"{mounted}/x")
    mfs.refused(errno.EPERM, os.link, path, f"{mounted}/x")


def test_read_write_and_holes(region: Regions) -> None:
    fd = region(7, reserve=False)
    assert os.pread(fd, 3 * mfs.PAGE, mfs.PAGE) == bytes(3 * mfs.PAGE)
    assert mfs.info(fd)["pages"] == 0, "reading a hole made pages"
    assert os.pwrite(fd, b"abc", 2 * mfs.PAGE - 1) == 3
    assert os.pread(fd, 5, 2 * mfs.PAGE - 2) == b"\0abc\0"
    assert mfs.info(fd)["pages"] == 2
    assert os.pread(fd, 100, 7 * mfs.PAGE - 3) == bytes(3)
    assert os.fstat(fd).st_blocks == 2 * 8
    os.lseek(fd, 0, os.SEEK_END)
    assert os.write(fd, b"z") == 1
    assert os.fstat(fd).st_size == 7 * mfs.PAGE + 1


def test_failed_write_past_the_end_leaves_nothing(region: Regions) -> None:
    fd = region(3)
    bad = ctypes.c_void_p(8)
    assert mfs.libc.pwrite(fd, bad, ctypes.c_size_t(10), ctypes.c_long(9 * mfs.PAGE)) == -1
    assert ctypes.get_errno() == errno.EFAULT
    assert (os.fstat(fd).st_size, mfs.info(fd)["pages"]) == (3 * mfs.PAGE, 3)


def test_write_and_mapping_are_the_same_memory(attached: tuple[int, int]) -> None:
    fd, addr = attached
    os.pwrite(fd, b"q", 3 * mfs.PAGE)
    assert mfs.peek(addr + 3 * mfs.PAGE) == ord("q")
    mfs.poke(addr + 3 * mfs.PAGE, ord("r"))
    assert os.pread(fd, 1, 3 * mfs.PAGE) == b"r"


def test_nameless_file_is_linked_when_complete(mounted: str) -> None:
    fd = os.open(mounted, os.O_TMPFILE | os.O_RDWR, 0o640)
    mfs.fallocate(fd, 0, 0, 5 * mfs.PAGE)
    assert "late" not in os.listdir(mounted)
    mfs.link(fd, f"{mounted}/late")
    mfs.refused(errno.EEXIST, mfs.link, fd, f"{mounted}/late")
    assert os.stat(f"{mounted}/late").st_size == 5 * mfs.PAGE
    os.close(fd)


def test_rename_replaces_and_unlink_keeps_the_open_one(mounted: str, region: Regions) -> None:
    first, second = region(3, name="a"), region(5, name="b")
    os.rename(f"{mounted}/a", f"{mounted}/b")
    assert os.fstat(second).st_nlink == 0
    assert os.path.samestat(os.stat(f"{mounted}/b"), os.fstat(first))
    assert mfs.info(second)["pages"] == 5


def test_flat_and_plain(mounted: str) -> None:
    mfs.refused(errno.EPERM, os.mkdir, f"{mounted}/d")
    mfs.refused(errno.EPERM, os.symlink, "/etc/passwd", f"{mounted}/s")
    mfs.refused(errno.EPERM, os.mknod, f"{mounted}/n", stat.S_IFIFO)


def test_chmod_chown(region: Regions) -> None:
    fd = region(1)
    os.fchmod(fd, 0o644)
    os.fchown(fd, 1234, 99)
    st = os.fstat(fd)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o644, 1234, 99)


def test_open_file_description_locks(region: Regions) -> None:
    fd = region(1)
    other = os.open(region.path, os.O_RDWR)
    lock = bytearray(__import__("struct").pack("=hhxxxxqqixxxx", fcntl.F_WRLCK, 0, 0, 0, 0))
    fcntl.fcntl(fd, 37, bytes(lock))  # F_OFD_SETLK
    mfs.refused(errno.EAGAIN, fcntl.fcntl, other, 37, bytes(lock))
    os.close(other)


def test_truncate_gives_memory_back_and_zeroes(attached: tuple[int, int]) -> None:
    fd, addr = attached
    for page in range(16):
        mfs.poke(addr + page * mfs.PAGE + 100, 7)
    os.ftruncate(fd, 3 * mfs.PAGE + 50)
    assert mfs.info(fd)["pages"] == 4
    assert mfs.peek(addr + 3 * mfs.PAGE + 100) == 0
    os.ftruncate(fd, 16 * mfs.PAGE)
    assert mfs.peek(addr + 3 * mfs.PAGE + 100) == 0
    assert mfs.peek(addr + 9 * mfs.PAGE + 100) == 0
    assert mfs.peek(addr + 2 * mfs.PAGE + 100) == 7


def test_punch_hole_zeroes_the_edges(attached: tuple[int, int]) -> None:
    fd, addr = attached
    for page in range(16):
        mfs.poke(addr + page * mfs.PAGE, 1)
        mfs.poke(addr + page * mfs.PAGE + mfs.PAGE - 1, 1)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, mfs.PAGE + 10, 3 * mfs.PAGE)
    values = [(mfs.peek(addr + p * mfs.PAGE), mfs.peek(addr + p * mfs.PAGE + mfs.PAGE - 1)) for p in range(6)]
    assert values == [(1, 1), (1, 0), (0, 0), (0, 0), (0, 1), (1, 1)]


def test_unknown_fallocate_modes_are_refused(region: Regions) -> None:
    fd = region(4)
    for mode in (0x01, 0x02, 0x08, 0x10, 0x20, 0x40):
        mfs.refused(errno.EOPNOTSUPP, mfs.fallocate, fd, mode, 0, mfs.PAGE)


def test_reserving_more_than_the_mount_has_changes_nothing(mounted: str, region: Regions) -> None:
    fd = region(3)
    free = os.statvfs(mounted).f_bfree
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, (free + 4) * mfs.PAGE)
    assert os.fstat(fd).st_size == 3 * mfs.PAGE
    assert os.statvfs(mounted).f_bfree == free


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A second mount of 64 pages, mode 0750, uid and gid 33."""
    subprocess.run(
        ["mount", "-t", "msharefs", "-o", "size=256k,mode=750,uid=33,gid=34,nr_inodes=5", "m", tmp_path], check=True
    )
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_mount_options(small: pathlib.Path) -> None:
    st = os.stat(small)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o750, 33, 34)
    fs = os.statvfs(small)
    assert (fs.f_blocks, fs.f_bfree) == (64, 64)
    with open("/proc/self/mounts") as f:
        (options,) = [line.split()[3] for line in f if line.split()[1] == str(small)]
    assert {"size=256k", "mode=750", "uid=33", "gid=34"} <= set(options.split(","))
    for bad in ("size=0", "size=1x", "size=101%", "uid=-1", "mode=9", "nonsense=1"):
        command = ["mount", "-t", "msharefs", "-o", bad, "m", small]
        assert subprocess.run(command, check=False, capture_output=True).returncode, bad


def test_mount_limits(small: pathlib.Path) -> None:
    fd = os.open(small / "f", os.O_RDWR | os.O_CREAT)
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, 65 * mfs.PAGE)
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, 60 * mfs.PAGE)  # 5 are for page tables
    mfs.fallocate(fd, 0, 0, 56 * mfs.PAGE)
    os.ftruncate(fd, 100 * mfs.PAGE)
    assert os.pwrite(fd, b"x" * 9 * mfs.PAGE, 56 * mfs.PAGE) == 3 * mfs.PAGE
    mfs.refused(errno.ENOSPC, os.pwrite, fd, b"x", 59 * mfs.PAGE)
    addr = mfs.mmap(fd, mfs.UNIT)
    assert mfs.outcome(lambda: mfs.poke(addr + 59 * mfs.PAGE, 1)) == -7, "SIGBUS, as tmpfs"
    mfs.munmap(addr, mfs.UNIT)
    names = [os.open(small / f"n{i}", os.O_CREAT | os.O_RDWR) for i in range(2)]
    mfs.refused(errno.ENOSPC, os.open, small / "n9", os.O_CREAT | os.O_RDWR)
    for other in (fd, *names):
        os.close(other)


MS_REMOUNT = 32


def remount(path: mfs.PathLike, options: str) -> None:
    """Remount with these options alone.  mount(8) would add the present options."""
    mfs.check(mfs.libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(MS_REMOUNT), options.encode()))


def shown_options(path: mfs.PathLike) -> set[str]:
    with open("/proc/self/mounts") as f:
        (options,) = [line.split()[3] for line in f if line.split()[1] == str(path)]
    return set(options.split(","))


def test_by_default_only_root_makes_regions(tmp_path: pathlib.Path) -> None:
    """Failed before: the mode was 1777, so that any user could fill half of the memory."""
    subprocess.run(["mount", "-t", "msharefs", "m", tmp_path], check=True)
    try:
        st = os.stat(tmp_path)
        assert (oct(st.st_mode & 0o7777), st.st_uid, st.st_gid) == ("0o755", 0, 0)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_mounts_shows_the_number_of_inodes(small: pathlib.Path, mounted: str) -> None:
    """Failed before: the option was not shown."""
    assert "nr_inodes=5" in shown_options(small)
    assert not any(option.startswith("nr_inodes") for option in shown_options(mounted))


@pytest.mark.parametrize("options", ["mode=755", "uid=0", "gid=33", "mode=750,uid=7", "size=512k,gid=0"])
def test_a_remount_does_not_change_mode_and_owner(small: pathlib.Path, options: str) -> None:
    """chmod and chown do.  Failed before: the option was accepted and ignored."""
    mfs.refused(errno.EINVAL, remount, small, options)
    st = os.stat(small)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o750, 33, 34)
    assert os.statvfs(small).f_blocks == 64


@pytest.mark.parametrize("options", ["mode=750", "uid=33,gid=34", "size=256k,mode=750,uid=33,gid=34,nr_inodes=5"])
def test_a_remount_may_repeat_what_holds(small: pathlib.Path, options: str) -> None:
    """mount(8) repeats all the options."""
    remount(small, options)
    assert {"size=256k", "mode=750", "uid=33", "gid=34"} <= shown_options(small)


def test_a_remount_changes_the_limits(small: pathlib.Path) -> None:
    """Failed before: nr_inodes was accepted and ignored."""
    remount(small, "size=512k,nr_inodes=9")
    now = os.statvfs(small)
    assert (now.f_blocks, now.f_files) == (128, 9)
    assert {"size=512k", "nr_inodes=9"} <= shown_options(small)
    names = [os.open(small / f"n{i}", os.O_CREAT | os.O_RDWR) for i in range(7)]
    mfs.refused(errno.ENOSPC, os.open, small / "n9", os.O_CREAT | os.O_RDWR)
    mfs.refused(errno.EINVAL, remount, small, "nr_inodes=8")
    remount(small, "size=1m")
    assert os.statvfs(small).f_files == 9
    for fd in names:
        os.close(fd)


def test_a_remount_keeps_what_is_used(small: pathlib.Path) -> None:
    fd = os.open(small / "f", os.O_RDWR | os.O_CREAT)
    mfs.fallocate(fd, 0, 0, 32 * mfs.PAGE)
    mfs.refused(errno.EINVAL, remount, small, "size=124k")
    assert os.statvfs(small).f_blocks == 64
    os.close(fd)


@pytest.mark.parametrize("size", [3 * mfs.PAGE, 40 * mfs.PAGE, 100])
def test_truncating_by_name_is_a_change_of_the_file(region: Regions, size: int) -> None:
    """Failed before: the time of the last change (ctime) stood still."""
    region(16)
    os.utime(region.path, ns=(5, 5))
    before = os.stat(region.path)
    coarse = 5  # CLOCK_REALTIME_COARSE, by which the kernel stamps
    while time.clock_gettime_ns(coarse) <= before.st_ctime_ns:
        os.sched_yield()
    os.truncate(region.path, size)
    after = os.stat(region.path)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns > 5
    assert after.st_atime_ns == 5


def test_how_much_a_handle_has_to_read(region: Regions) -> None:
    """FIONREAD: the size of the region when the handle was made.  Failed before: 0."""
    fd = region(16)
    handle = mfs.map_only(fd, False)
    answer = bytearray(4)
    fcntl.ioctl(handle, 0x541B, answer)
    os.close(handle)
    assert int.from_bytes(answer, "little") == 16 * mfs.PAGE
