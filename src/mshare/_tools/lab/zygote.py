"""The process that forks the clients, and the life of a client. Run as a script, so that it is small. May depend on:
nothing (not even on mshare).

Facts: 1,500 interpreters do not fit beside a region into the machine's memory. Forks of one interpreter share its pages
until one of them writes, and Python writes a reference count whenever it looks at an object. Measured on Linux 6.18,
Python 3.11, a client takes 1.7 MiB if it attaches through the library, 0.9 MiB if it calls `mmap`, and 0.3 MiB without
`os.fork`'s own clean-up. Consequence: clients do little, and everything that they need is made before the fork.
Decision: clients use the C library's `fork` (there is one thread, and no client uses the state that `os.fork` would
repair), and `open` and `mmap` at the region's address, as a C program attaches. The region is not mapped in the zygote:
every client attaches by itself.

Orders come as single bytes on standard input: `c` forks a client, `t` one that measures fork and exit and ends. Events
go out as records on the descriptor `events` (see `EVENT`). When standard input ends, all clients are killed.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from time import monotonic_ns

EVENT = struct.Struct("=cxxxi5q")
"""kind, process, then by kind:

- `R` (has read everything): pages that held what was written, minor faults of reading, attach ns, read ns, clock then.
- `A` (has read again): pages that held what was written.
- `T` (has measured): pages as in `R`, median fork ns, median exit ns.
- `F` (could not do it): errno; the process is the zygote where `fork` failed.
- `D` (has died): the signal that killed it, 0 if none did.
"""

_FORKS = 15
_CHUNK = 4096  # pages read by one call: the call's result, a byte for each page, is all the memory of a read
_PAGE = 4096
_FLAGS = ("-I", "-S")
_ADDR_NO_RANDOMIZE = 0x0040000
_PROT_READ, _PROT_WRITE, _MAP_SHARED, _MAP_FIXED_NOREPLACE = 1, 2, 1, 0x100000

_python = ctypes.PyDLL(None, use_errno=True)  # calls with the interpreter's lock held, because there is no other thread
_mmap = _python.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_fork: Callable[[], int] = _python.fork


class Client:
    """The work of a client. Everything is prepared before the client exists."""

    def __init__(self, settings: dict[str, object]) -> None:
        self.kind = str(settings["kind"])
        self.path = str(settings["path"])
        self.addr = int(str(settings["addr"]))
        self.map_bytes = int(str(settings["map_bytes"]))
        self.size_bytes = int(str(settings["size_bytes"]))
        self.step = int(str(settings["step_bytes"]))
        self.again_step = int(str(settings["again_step_bytes"]))
        self.events = int(str(settings["events"]))
        self.again = int(str(settings["again"]))
        self.end = int(str(settings["end"]))
        self.view = memoryview(b"")
        self.own = memoryview(mmap.mmap(-1, 4 * _CHUNK))
        if self.kind == "file":  # a view touches nothing, and can be made before the mapping under it
            self.view = memoryview((ctypes.c_char * self.size_bytes).from_address(self.addr)).cast("B")
        elif self.kind == "shared_memory":
            from multiprocessing import resource_tracker, shared_memory

            resource_tracker.ensure_running()  # as multiprocessing does: its children share their parent's
            self.SharedMemory = shared_memory.SharedMemory

    def attach(self) -> None:
        if self.kind == "file":
            fd = os.open(self.path, os.O_RDWR)
            flags = _MAP_SHARED | _MAP_FIXED_NOREPLACE
            if _mmap(self.addr, self.map_bytes, _PROT_READ | _PROT_WRITE, flags, fd, 0) != self.addr:
                raise OSError(ctypes.get_errno(), "mmap")
            os.close(fd)
        elif self.kind == "shared_memory":
            self.segment = self.SharedMemory(self.path)
            assert self.segment.buf is not None
            self.view = self.segment.buf[: self.size_bytes]

    def read(self, step: int) -> int:
        """Read a byte of every `step` bytes of the region, and return the number that hold the creator's bytes."""
        return self.count(self.view, step)

    def count(self, view: memoryview, step: int) -> int:
        good = 0
        for start in range(0, len(view), _CHUNK * step):
            good += view[start : start + _CHUNK * step : step].tobytes().count(1)
        return good

    def say(self, kind: bytes, *numbers: int) -> None:
        os.write(self.events, EVENT.pack(kind, os.getpid(), *numbers, *(0,) * (5 - len(numbers))))

    def scan(self, view: memoryview, step: int) -> tuple[int, int, int, int]:
        """Count, and return what `count` does, the minor faults taken, the ns it took, and the clock at its end."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = monotonic_ns()
        good = self.count(view, step)
        done = monotonic_ns()
        return good, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, done - start, done

    def rehearse(self) -> None:
        """Run the measured code over private memory first, which copies the pages that a fork has left to copy."""
        for _ in range(3):
            self.scan(self.own, 2)
        for start in range(0, len(self.view), _CHUNK * self.step):
            self.view[start:start]  # counts the references of all numbers up to here, and reads nothing

    def attach_and_read(self) -> tuple[int, int, int, int, int]:
        start = monotonic_ns()
        self.attach()
        attached = monotonic_ns()
        self.rehearse()
        good, faults, read_ns, done = self.scan(self.view, self.step)
        return good, faults, attached - start, read_ns, done

    def live(self) -> None:
        """Attach, read everything, and stay until told to read again, and then until the end."""
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")  # the kernel then kills a client, and not the counting process
        os.close(fd)
        self.say(b"R", *self.attach_and_read())
        os.read(self.again, 1)
        self.say(b"A", self.read(self.again_step))
        os.read(self.end, 1)

    def measure(self) -> None:
        """Attach and read, then fork children that also read, and end: the medians of what fork and exit take."""
        good = self.attach_and_read()[0]
        clock = mmap.mmap(-1, _PAGE)
        forks, exits = [], []
        for _ in range(_FORKS):
            start = monotonic_ns()
            pid = _fork()
            if pid == 0:
                self.read(self.step)
                clock[:8] = struct.pack("q", monotonic_ns())
                os._exit(0)
            if pid < 0:
                raise OSError(ctypes.get_errno(), "fork")
            forks.append(monotonic_ns() - start)
            if os.waitpid(pid, 0)[1]:
                raise OSError(errno.ENOMEM, "a child was killed")
            exits.append(monotonic_ns() - struct.unpack("q", clock[:8])[0])
        self.say(b"T", good, sorted(forks)[_FORKS // 2], sorted(exits)[_FORKS // 2])

    def be(self, life: Callable[[], None]) -> None:
        """In the forked process: live, and end."""
        try:
            life()
        except OSError as error:
            self.say(b"F", error.errno or 0)
        finally:
            os._exit(0)


def _settle() -> None:
    """Start again with addresses that are not randomised.

    With random addresses, chance decides whether a mapping straddles a 2 MiB boundary, and forks inherit the result: a
    page table or two more or less for every client. The same clients with nothing mapped, which are forks of another
    zygote, would then not have the same tables."""
    randomised = _python.personality(0xFFFFFFFF) & _ADDR_NO_RANDOMIZE == 0
    if randomised and _python.personality(_ADDR_NO_RANDOMIZE) != -1:
        os.execv(sys.executable, [sys.executable, *_FLAGS, __file__, *sys.argv[1:]])


def main() -> None:
    _settle()
    client = Client(json.loads(sys.argv[1]))
    woken, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for _ in range(32):  # Python rewrites code that runs often: once, here
        client.rehearse()
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        ready, _, _ = select.select((0, woken), (), ())
        if woken in ready:
            os.read(woken, 512)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                os.write(client.events, EVENT.pack(b"D", pid, killed, 0, 0, 0, 0))
        if 0 in ready:
            order = os.read(0, 1)
            if not order:
                os.killpg(0, signal.SIGKILL)
            pid = _fork()
            if pid == 0:
                client.be(client.measure if order == b"t" else client.live)
            if pid < 0:
                client.say(b"F", ctypes.get_errno())


if __name__ == "__main__":
    main()
