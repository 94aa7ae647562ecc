"""A read-only attachment resists every attempt to write; a writable one is ordinary memory to the kernel."""

import ctypes
import errno
import mmap as stdlib_mmap
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from . import mfs
from .regions import Regions

PTRACE_TRACEME, PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_CONT = 0, 2, 5, 7
mfs.libc.ptrace.restype = ctypes.c_long
mfs.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@pytest.fixture(params=["O_RDONLY", "PROT_READ over O_RDWR"])
def readonly(request: pytest.FixtureRequest, region: Regions) -> Iterator[tuple[int, int]]:
    """A descriptor open for both, and the address of a read-only attachment; byte 0 of each page is 0x55."""
    fd = region(16)
    for page in range(16):
        os.pwrite(fd, b"\x55", page * mfs.PAGE)
    other = os.open(region.path, os.O_RDONLY) if request.param == "O_RDONLY" else os.dup(fd)
    addr = mfs.mmap(other, mfs.UNIT, prot=mfs.PROT_READ)
    os.close(other)
    yield fd, addr
    assert [os.pread(fd, 1, page * mfs.PAGE) for page in range(16)] == [b"\x55"] * 16, "the region was written"
    mfs.munmap(addr, mfs.UNIT)


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Iterator[str]:
    """A block device whose blocks are all 0xAA."""
    image = tmp_path / "image"
    image.write_bytes(b"\xaa" * (1 << 20))
    subprocess.run(["modprobe", "loop"], check=False)
    path = subprocess.run(["losetup", "--show", "-f", image], check=True, capture_output=True, text=True).stdout.strip()
    yield path
    subprocess.run(["losetup", "-d", path], check=True)


def test_store(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    assert mfs.outcome(lambda: mfs.poke(addr, 1)) == -signal.SIGSEGV


def test_store_to_a_page_nobody_touched(region: Regions) -> None:
    fd = region(16, reserve=False)
    addr = mfs.mmap(fd, mfs.UNIT, prot=mfs.PROT_READ)
    assert mfs.outcome(lambda: mfs.poke(addr, 1)) == -signal.SIGSEGV
    assert mfs.peek(addr) == 0
    assert mfs.outcome(lambda: mfs.poke(addr, 1)) == -signal.SIGSEGV
    mfs.munmap(addr, mfs.UNIT)


def test_mprotect(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    mfs.refused(errno.EACCES, lambda: mfs.check(mfs.libc.mprotect(addr, mfs.UNIT, 3)))


def test_proc_mem(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    mem = os.open("/proc/self/mem", os.O_RDWR)
    assert os.pread(mem, 1, addr) == b"\x55"
    with pytest.raises(OSError):
        os.pwrite(mem, b"x", addr)
    os.close(mem)


def test_process_vm(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    buffer = ctypes.create_string_buffer(b"x", 1)
    local, remote = mfs.Iovec(ctypes.addressof(buffer), 1), mfs.Iovec(addr, 1)
    arguments = (os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    assert mfs.libc.process_vm_writev(*arguments) == -1
    assert ctypes.get_errno() == errno.EFAULT
    assert mfs.libc.process_vm_readv(*arguments) == 1
    assert buffer.raw == b"\x55"


def test_read_into_it(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    with open("/dev/zero", "rb") as zero:
        assert mfs.libc.read(zero.fileno(), ctypes.c_void_p(addr), ctypes.c_size_t(1)) == -1
    assert ctypes.get_errno() == errno.EFAULT


def test_direct_read_into_it(readonly: tuple[int, int], device: str) -> None:
    _fd, addr = readonly
    mfs.peek(addr)
    disk = os.open(device, os.O_RDONLY | os.O_DIRECT)
    for _ in range(3):
        assert mfs.libc.read(disk, ctypes.c_void_p(addr), ctypes.c_size_t(2 * mfs.PAGE)) == -1
        assert ctypes.get_errno() == errno.EFAULT
    os.close(disk)


def test_ptrace(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly

    def traced(ready: mfs.Ready, wait: mfs.Wait) -> None:
        mfs.libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    child = mfs.Child(traced)
    os.waitpid(child.pid, os.WUNTRACED)
    assert mfs.libc.ptrace(PTRACE_PEEKDATA, child.pid, addr, None) & 0xFF == 0x55
    ctypes.set_errno(0)
    assert mfs.libc.ptrace(PTRACE_POKEDATA, child.pid, addr, 1) == -1
    mfs.libc.ptrace(PTRACE_CONT, child.pid, None, None)
    assert child.result() == 0


def register_buffer(addr: int) -> int:
    """io_uring fixed buffer: 0 or errno."""
    ring = mfs.check(mfs.libc.syscall(425, 1, ctypes.byref(ctypes.create_string_buffer(120))))
    iovec = mfs.Iovec(addr, 4 * mfs.PAGE)
    try:
        return 0 if mfs.libc.syscall(427, ring, 0, ctypes.byref(iovec), 1) == 0 else ctypes.get_errno()
    finally:
        os.close(ring)


def test_io_uring_fixed_buffer(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    assert register_buffer(addr) == errno.EFAULT


def test_futex_and_signal_frames_cannot_write(readonly: tuple[int, int]) -> None:
    _fd, addr = readonly
    assert mfs.libc.syscall(202, ctypes.c_void_p(addr), 6, 0, None, None, 0) == -1  # FUTEX_LOCK_PI writes its word
    assert ctypes.get_errno() in (errno.EFAULT, errno.EACCES)
    assert mfs.libc.pipe(ctypes.c_void_p(addr)) == -1


# -- writable attachments --


def test_writable_direct_io(attached: tuple[int, int], device: str) -> None:
    fd, addr = attached
    disk = os.open(device, os.O_RDWR | os.O_DIRECT)
    assert mfs.libc.read(disk, ctypes.c_void_p(addr), ctypes.c_size_t(4 * mfs.PAGE)) == 4 * mfs.PAGE
    assert os.pread(fd, 4 * mfs.PAGE, 0) == b"\xaa" * 4 * mfs.PAGE
    mfs.poke(addr, 1)
    assert mfs.libc.pwrite(disk, ctypes.c_void_p(addr), ctypes.c_size_t(mfs.PAGE), ctypes.c_long(0)) == mfs.PAGE
    page = stdlib_mmap.mmap(-1, mfs.PAGE)
    os.preadv(disk, [page], 0)
    assert page[:2] == b"\x01\xaa"
    os.close(disk)


def test_writable_proc_mem(attached: tuple[int, int]) -> None:
    fd, addr = attached
    mem = os.open("/proc/self/mem", os.O_RDWR)
    mfs.madvise(addr, mfs.UNIT, 4)
    assert os.pwrite(mem, b"zyx", addr + 5) == 3
    assert os.pread(mem, 3, addr + 5) == b"zyx" == os.pread(fd, 3, 5)
    os.close(mem)


def test_writable_process_vm(attached: tuple[int, int]) -> None:
    fd, addr = attached
    buffer = ctypes.create_string_buffer(b"q", 1)
    local, remote = mfs.Iovec(ctypes.addressof(buffer), 1), mfs.Iovec(addr + 5 * mfs.PAGE, 1)
    arguments = (os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    assert mfs.libc.process_vm_writev(*arguments) == 1
    assert os.pread(fd, 1, 5 * mfs.PAGE) == b"q"
    mfs.poke(addr + 5 * mfs.PAGE, ord("r"))
    assert mfs.libc.process_vm_readv(*arguments) == 1
    assert buffer.raw == b"r"


def test_writable_ptrace(attached: tuple[int, int]) -> None:
    """A debugger can write, as into other memory."""
    fd, addr = attached
    os.pwrite(fd, b"before..", 2 * mfs.PAGE)

    def traced(ready: mfs.Ready, wait: mfs.Wait) -> None:
        mfs.libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)

    child = mfs.Child(traced)
    os.waitpid(child.pid, os.WUNTRACED)
    word = mfs.libc.ptrace(PTRACE_PEEKDATA, child.pid, addr + 2 * mfs.PAGE, None)
    assert word == int.from_bytes(b"before..", "little")
    new = int.from_bytes(b"debugger", "little")
    assert mfs.libc.ptrace(PTRACE_POKEDATA, child.pid, addr + 2 * mfs.PAGE, new) == 0
    assert os.pread(fd, 8, 2 * mfs.PAGE) == b"debugger", "for everybody, not in a private copy"
    mfs.libc.ptrace(PTRACE_CONT, child.pid, None, None)
    assert child.result() == 0


def test_writable_fixed_buffer_until_a_page_is_read_only(attached: tuple[int, int]) -> None:
    fd, addr = attached
    before = register_buffer(addr)
    assert before in (0, errno.EOPNOTSUPP)  # 6.1 registers no file's memory but that of tmpfs and hugetlbfs
    mfs.protect(fd, 8 * mfs.PAGE, mfs.PAGE, mfs.READ)
    assert register_buffer(addr) in (before, errno.EFAULT)  # 6.5 and later refuse; see docs/kernel.md
    assert register_buffer(addr + 6 * mfs.PAGE) in (errno.EFAULT, errno.EOPNOTSUPP)
    mfs.protect(fd, 8 * mfs.PAGE, mfs.PAGE, mfs.READWRITE)


def test_protected_page_holds_against_the_kernel(attached: tuple[int, int], device: str) -> None:
    fd, addr = attached
    mfs.poke(addr, 3)
    mfs.protect(fd, 0, mfs.PAGE, mfs.READ)
    disk = os.open(device, os.O_RDONLY | os.O_DIRECT)
    assert mfs.libc.read(disk, ctypes.c_void_p(addr), ctypes.c_size_t(mfs.PAGE)) == -1
    mem = os.open("/proc/self/mem", os.O_RDWR)
    with pytest.raises(OSError):
        os.pwrite(mem, b"x", addr)
    assert os.pread(mem, 1, addr) == b"\x03"
    mfs.protect(fd, 0, mfs.PAGE, mfs.NONE)
    with pytest.raises(OSError):
        os.pread(mem, 1, addr)
    os.close(mem)
    os.close(disk)
    mfs.protect(fd, 0, mfs.PAGE, mfs.READWRITE)
    assert mfs.peek(addr) == 3
