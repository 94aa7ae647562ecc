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
import time
import traceback

PAGE = 4096
FIRST = 5  # pages of size= that the tables of the first page of a region are charged
UNIT = 1 << 30
ROOT = "/sys/fs/mshare"

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
MAP_FIXED_NOREPLACE = 0x100000
NONE, READ, READWRITE = 0, 1, 3
PUNCH_HOLE = 0x02 | 0x01

INFO = struct.Struct("=IIQQQQQQQII4Q")
IOC_INFO = 2 << 30 | INFO.size << 16 | 0xBC << 8 | 0
IOC_PIDS = 3 << 30 | 16 << 16 | 0xBC << 8 | 1
IOC_PROTECT = 1 << 30 | 24 << 16 | 0xBC << 8 | 2
IOC_SET_BASE = 1 << 30 | 8 << 16 | 0xBC << 8 | 3

IOC_SEAL = 0xBC << 8 | 4
IOC_HANDLE = 1 << 30 | 4 << 16 | 0xBC << 8 | 5

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


def check(result, failed=-1):
    """The result of a libc call, or OSError."""
    if result == failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mmap(fd, length, prot=PROT_READ | PROT_WRITE, flags=MAP_SHARED, addr=None, offset=0):
    return check(libc.mmap(addr, length, prot, flags, fd, offset), ctypes.c_void_p(-1).value)


def munmap(addr, length):
    check(libc.munmap(addr, length))


def link(fd, path):
    """Give a nameless file its name.  (os.link follows no symlink when it is given plain paths.)"""
    check(libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, path.encode(), 0x400))


def madvise(addr, length, advice):
    check(libc.madvise(addr, length, advice))


def fallocate(fd, mode, offset, length):
    check(libc.fallocate(fd, mode, offset, length))


def peek(addr):
    return ctypes.c_ubyte.from_address(addr).value


def poke(addr, value):
    ctypes.c_ubyte.from_address(addr).value = value


def info(fd):
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
    ]
    return dict(zip(names, INFO.unpack(raw), strict=False))


def pids(fd, capacity=64):
    ids = array.array("i", [0] * capacity)
    raw = bytearray(struct.pack("=QII", ids.buffer_info()[0] if capacity else 0, capacity, 0))
    fcntl.ioctl(fd, IOC_PIDS, raw)
    count = struct.unpack("=QII", raw)[2]
    return count, set(ids[: min(count, capacity)])


def protect(fd, offset, length, prot, flags=0):
    fcntl.ioctl(fd, IOC_PROTECT, struct.pack("=QQII", offset, length, prot, flags))


def set_base(fd, base):
    fcntl.ioctl(fd, IOC_SET_BASE, struct.pack("=Q", base))


def seal(fd):
    fcntl.ioctl(fd, IOC_SEAL)


def ioctl_handle(fd, flags):
    return check(libc.ioctl(fd, ctypes.c_ulong(IOC_HANDLE), (ctypes.c_uint32 * 1)(flags)))


def map_only(fd, writable):
    """A new map-only descriptor."""
    return ioctl_handle(fd, int(writable))


def meminfo(field):
    """A field of /proc/meminfo in kB."""
    with open("/proc/sys/vm/stat_refresh") as f:  # each CPU counts for itself until then
        f.read()
    with open("/proc/meminfo") as f:
        return int(re.search(rf"^{field}:\s+(\d+)", f.read(), re.M).group(1))


def eventually(condition, complaint, seconds=60):
    """Wait until condition() is true, or fail with the complaint."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, complaint
        os.sched_yield()


def removed(directory):
    """Remove a directory, unless it is in use; whether it is gone."""
    try:
        os.rmdir(directory)
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


class Child:
    """A forked child that runs a function; `result` tells how it ended."""

    def __init__(self, function):
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
            code = error.errno
        except BaseException:
            traceback.print_exc()
            code = 255
        finally:
            os._exit(code)

    def wait_ready(self):
        assert os.read(self.ready, 1) == b"r", "the child ended early"

    def proceed(self):
        os.write(self.go, b"g")

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.result()

    def result(self):
        """Exit status (an errno, 0 for success) or a negative signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.ready)
        os.close(self.go)
        return os.waitstatus_to_exitcode(status)


def outcome(function):
    """Run in a child; 0, an errno, or a negative signal."""
    return Child(lambda ready, wait: function()).result()


def refused(code, function, *args, **kwargs):
    """The call fails with exactly this errno."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        assert error.errno == code, f"{errno.errorcode[error.errno]} instead of {errno.errorcode[code]}"
    else:
        raise AssertionError(f"succeeded, should be {errno.errorcode[code]}")
