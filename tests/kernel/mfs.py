"""The uapi of msharefs for tests: plain ctypes over libc, nothing of the product."""

import array
import ctypes
import errno
import faulthandler
import fcntl
import os
import re
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PathLike = str | Path
Ready = Callable[[], int]
"""A child calls this function when the child is ready."""
Wait = Callable[[], bytes]
"""A child calls this function and waits until the child may proceed."""

PAGE = 4096
FIRST = 5  # pages of size= that the tables of the first page of a region are charged
UNIT = 1 << 30
BLOCK = 2 << 20
ROOT = "/sys/fs/mshare"

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
MAP_FIXED_NOREPLACE = 0x100000
FAILED = (1 << 64) - 1  # the address that mmap and mremap return when they fail
NONE, READ, READWRITE = 0, 1, 3
PUNCH_HOLE = 0x02 | 0x01

INFO = struct.Struct("=IIQQQQQQQII4Q")
IOC_INFO = 2 << 30 | INFO.size << 16 | 0xBC << 8 | 0
IOC_PIDS = 3 << 30 | 16 << 16 | 0xBC << 8 | 1
IOC_PROTECT = 1 << 30 | 24 << 16 | 0xBC << 8 | 2
IOC_SET_BASE = 1 << 30 | 8 << 16 | 0xBC << 8 | 3

IOC_SEAL = 0xBC << 8 | 4
IOC_HANDLE = 1 << 30 | 4 << 16 | 0xBC << 8 | 5
IOC_HUGE = 1 << 30 | 4 << 16 | 0xBC << 8 | 6

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
libc.syscall.restype = ctypes.c_long


def check(result: int | None, failed: int = -1) -> int:
    """Return the result of a libc call, or raise OSError. ctypes has None for the address 0."""
    if result == failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result or 0


def mmap(
    fd: int,
    length: int,
    prot: int = PROT_READ | PROT_WRITE,
    flags: int = MAP_SHARED,
    addr: int | None = None,
    offset: int = 0,
) -> int:
    return check(libc.mmap(addr, length, prot, flags, fd, offset), FAILED)


def munmap(addr: int, length: int) -> None:
    check(libc.munmap(addr, length))


def link(fd: int, path: str) -> None:
    """Give a nameless file its name.  (os.link follows no symlink when it is given plain paths.)"""
    check(libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, path.encode(), 0x400))


def madvise(addr: int, length: int, advice: int) -> None:
    check(libc.madvise(addr, length, advice))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    check(libc.fallocate(fd, mode, offset, length))


def peek(addr: int) -> int:
    return ctypes.c_ubyte.from_address(addr).value


def poke(addr: int, value: int) -> None:
    ctypes.c_ubyte.from_address(addr).value = value


def info(fd: int) -> dict[str, int]:
    raw = bytearray(INFO.size)
    fcntl.ioctl(fd, IOC_INFO, raw)
    names = [
        "abi",
        "flags",
        "size",
        "base",
        "unit_bytes",
        "pages",
        "table_bytes",
        "generation",
        "filled",
        "attachments",
        "processes",
        "charged_bytes",
        "huge_pages",
        "huge_fallbacks",
    ]
    return dict(zip(names, INFO.unpack(raw), strict=False))


def pids(fd: int, capacity: int = 64) -> tuple[int, set[int]]:
    ids = array.array("i", [0] * capacity)
    raw = bytearray(struct.pack("=QII", ids.buffer_info()[0] if capacity else 0, capacity, 0))
    fcntl.ioctl(fd, IOC_PIDS, raw)
    count = struct.unpack("=QII", raw)[2]
    return count, set(ids[: min(count, capacity)])


def protect(fd: int, offset: int, length: int, prot: int, flags: int = 0) -> None:
    fcntl.ioctl(fd, IOC_PROTECT, struct.pack("=QQII", offset, length, prot, flags))


def set_base(fd: int, base: int) -> None:
    fcntl.ioctl(fd, IOC_SET_BASE, struct.pack("=Q", base))


def seal(fd: int) -> None:
    fcntl.ioctl(fd, IOC_SEAL)


def huge(fd: int, on: int) -> None:
    fcntl.ioctl(fd, IOC_HUGE, struct.pack("=I", on))


def ioctl_handle(fd: int, flags: int) -> int:
    return check(libc.ioctl(fd, ctypes.c_ulong(IOC_HANDLE), (ctypes.c_uint32 * 1)(flags)))


def map_only(fd: int, writable: bool) -> int:
    """A new map-only descriptor."""
    return ioctl_handle(fd, int(writable))


def meminfo(field: str) -> int:
    """A field of /proc/meminfo in kB."""
    with open("/proc/sys/vm/stat_refresh") as f:  # each CPU has its own count until then
        f.read()
    with open("/proc/meminfo") as f:
        return int(found(rf"^{field}:\s+(\d+)", f.read())[1])


def found(pattern: str, text: str) -> re.Match[str]:
    """Return the pattern's match in the text, or fail with the text."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match, text
    return match


def removed(directory: PathLike) -> bool:
    """Remove a directory, unless it is in use.  Return whether the directory is gone."""
    try:
        os.rmdir(directory)
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


class Iovec(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Child:
    """A forked child that runs a function; `result` tells how it ended."""

    def __init__(self, function: Callable[[Ready, Wait], object]) -> None:
        self.ready, ready = os.pipe()
        go, self.go = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(ready)
            os.close(go)
            return
        code = 1
        try:
            os.close(self.go)
            faulthandler.disable()  # a signal is often what the test wants, but not a core
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            signal.alarm(300)
            function(lambda: os.write(ready, b"r"), lambda: os.read(go, 1))
            code = 0
        except OSError as error:
            code = error.errno or 255
        except BaseException:
            traceback.print_exc()
            code = 255
        finally:
            os._exit(code)

    def wait_ready(self) -> None:
        assert os.read(self.ready, 1) == b"r", "the child ended early"

    def proceed(self) -> None:
        os.write(self.go, b"g")

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.result()

    def result(self) -> int:
        """Return the exit status (an errno, 0 for success) or a negative signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.ready)
        os.close(self.go)
        return os.waitstatus_to_exitcode(status)


def outcome(function: Callable[[], object]) -> int:
    """Run the function in a child.  Return 0, an errno, or a negative signal."""
    return Child(lambda ready, wait: function()).result()


def refused(code: int, function: Callable[..., object], *args: object, **kwargs: object) -> None:
    """The call fails with exactly this errno."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        assert error.errno == code, f"{error} instead of {errno.errorcode[code]}"
    else:
        raise AssertionError(f"succeeded, should be {errno.errorcode[code]}")
