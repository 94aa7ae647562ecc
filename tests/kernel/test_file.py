"""A region is a file."""

import ctypes
import errno
import fcntl
import os
import stat
import subprocess

import mfs
import pytest


def test_info_file_tells_the_alignment_and_cannot_go(mounted):
    path = f"{mounted}/mshare_info"
    with open(path) as f:
        assert int(f.read()) == mfs.UNIT
    mfs.refused(errno.EPERM, os.unlink, path)
    mfs.refused(errno.EPERM, os.rename, path, f"{mounted}/x")
    mfs.refused(errno.EPERM, os.link, path, f"{mounted}/x")


def test_read_write_and_holes(region):
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


def test_failed_write_past_the_end_leaves_nothing(region):
    fd = region(3)
    bad = ctypes.c_void_p(8)
    assert mfs.libc.pwrite(fd, bad, ctypes.c_size_t(10), ctypes.c_long(9 * mfs.PAGE)) == -1
    assert ctypes.get_errno() == errno.EFAULT
    assert (os.fstat(fd).st_size, mfs.info(fd)["pages"]) == (3 * mfs.PAGE, 3)


def test_write_and_mapping_are_the_same_memory(attached):
    fd, addr = attached
    os.pwrite(fd, b"q", 3 * mfs.PAGE)
    assert mfs.peek(addr + 3 * mfs.PAGE) == ord("q")
    mfs.poke(addr + 3 * mfs.PAGE, ord("r"))
    assert os.pread(fd, 1, 3 * mfs.PAGE) == b"r"


def test_nameless_file_is_linked_when_complete(mounted):
    fd = os.open(mounted, os.O_TMPFILE | os.O_RDWR, 0o640)
    mfs.fallocate(fd, 0, 0, 5 * mfs.PAGE)
    assert "late" not in os.listdir(mounted)
    mfs.link(fd, f"{mounted}/late")
    mfs.refused(errno.EEXIST, mfs.link, fd, f"{mounted}/late")
    assert os.stat(f"{mounted}/late").st_size == 5 * mfs.PAGE
    os.close(fd)


def test_rename_replaces_and_unlink_keeps_the_open_one(mounted, region):
    first, second = region(3, name="a"), region(5, name="b")
    os.rename(f"{mounted}/a", f"{mounted}/b")
    assert os.fstat(second).st_nlink == 0
    assert os.path.samestat(os.stat(f"{mounted}/b"), os.fstat(first))
    assert mfs.info(second)["pages"] == 5


def test_flat_and_plain(mounted):
    mfs.refused(errno.EPERM, os.mkdir, f"{mounted}/d")
    mfs.refused(errno.EPERM, os.symlink, "/etc/passwd", f"{mounted}/s")
    mfs.refused(errno.EPERM, os.mknod, f"{mounted}/n", stat.S_IFIFO)


def test_chmod_chown(region):
    fd = region(1)
    os.fchmod(fd, 0o644)
    os.fchown(fd, 1234, 99)
    st = os.fstat(fd)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o644, 1234, 99)


def test_open_file_description_locks(region):
    fd = region(1)
    other = os.open(region.path, os.O_RDWR)
    lock = bytearray(__import__("struct").pack("=hhxxxxqqixxxx", fcntl.F_WRLCK, 0, 0, 0, 0))
    fcntl.fcntl(fd, 37, bytes(lock))  # F_OFD_SETLK
    mfs.refused(errno.EAGAIN, fcntl.fcntl, other, 37, bytes(lock))
    os.close(other)


def test_truncate_gives_memory_back_and_zeroes(attached):
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


def test_punch_hole_zeroes_the_edges(attached):
    fd, addr = attached
    for page in range(16):
        mfs.poke(addr + page * mfs.PAGE, 1)
        mfs.poke(addr + page * mfs.PAGE + mfs.PAGE - 1, 1)
    mfs.fallocate(fd, mfs.PUNCH_HOLE, mfs.PAGE + 10, 3 * mfs.PAGE)
    values = [(mfs.peek(addr + p * mfs.PAGE), mfs.peek(addr + p * mfs.PAGE + mfs.PAGE - 1)) for p in range(6)]
    assert values == [(1, 1), (1, 0), (0, 0), (0, 0), (0, 1), (1, 1)]


def test_unknown_fallocate_modes_are_refused(region):
    fd = region(4)
    for mode in (0x01, 0x02, 0x08, 0x10, 0x20, 0x40):
        mfs.refused(errno.EOPNOTSUPP, mfs.fallocate, fd, mode, 0, mfs.PAGE)


def test_reserving_more_than_the_mount_has_changes_nothing(mounted, region):
    fd = region(3)
    free = os.statvfs(mounted).f_bfree
    mfs.refused(errno.ENOSPC, mfs.fallocate, fd, 0, 0, (free + 4) * mfs.PAGE)
    assert os.fstat(fd).st_size == 3 * mfs.PAGE
    assert os.statvfs(mounted).f_bfree == free


@pytest.fixture
def small(tmp_path):
    """A second mount of 64 pages, mode 0750, uid and gid 33."""
    subprocess.run(
        ["mount", "-t", "msharefs", "-o", "size=256k,mode=750,uid=33,gid=34,nr_inodes=5", "m", tmp_path], check=True
    )
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_mount_options(small):
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


def test_mount_limits(small):
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
