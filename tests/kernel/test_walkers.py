"""The kernel walks an address space for other processes and for its owner, while pages come and go."""

import ctypes
import errno
import os
import pathlib
import signal
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.waiting import eventually

from . import mfs, oracle
from .programs import Program
from .regions import Regions

SECONDS = int(os.environ.get("MSHARE_RACE_SECONDS", "5"))
AT = 0x300000000000
FUTEX_WAIT, FUTEX_WAKE = 0, 1
FUTEX, REMAP_FILE_PAGES, MLOCK2, PKEY_MPROTECT, PKEY_ALLOC, MSEAL = 202, 216, 325, 329, 330, 462
REMOVE, DONTFORK, DOFORK, HWPOISON, SOFT_OFFLINE = 9, 10, 11, 100, 101


def by_process_vm(pid: int, addr: int, value: int | None) -> int:
    """Write (or read, without a value) one byte of another process."""
    buffer = ctypes.create_string_buffer(bytes([value or 0]), 1)
    local, remote = mfs.Iovec(ctypes.addressof(buffer), 1), mfs.Iovec(addr, 1)
    call = mfs.libc.process_vm_readv if value is None else mfs.libc.process_vm_writev
    assert mfs.check(call(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)) == 1
    return buffer.raw[0]


def by_proc_mem(pid: int, addr: int, value: int | None) -> int:
    mem = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        if value is None:
            return os.pread(mem, 1, addr)[0]
        assert os.pwrite(mem, bytes([value]), addr) == 1
        return value
    finally:
        os.close(mem)


@pytest.fixture
def idle(region: Regions) -> Iterator[tuple[int, Callable[..., mfs.Child]]]:
    """idle(prot) -> a process that is attached at AT and does nothing more.  The region has no page yet."""
    fd = region(16, reserve=False)
    made = []

    def start(prot: int = mfs.PROT_READ | mfs.PROT_WRITE, then: Callable[[], object] | None = None) -> mfs.Child:
        def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
            mfs.mmap(fd, mfs.UNIT, prot=prot, addr=AT)
            ready()
            wait()
            if then:
                then()

        made.append(mfs.Child(child))
        made[-1].wait_ready()
        return made[-1]

    yield fd, start
    for each in made:
        each.kill()


@pytest.mark.parametrize("access", [by_process_vm, by_proc_mem])
def test_a_remote_access_fills_a_page(
    idle: tuple[int, Callable[..., mfs.Child]], access: Callable[[int, int, int | None], int]
) -> None:
    """The process itself has touched nothing: neither the page nor its own tables are there."""
    fd, start = idle
    child = start()
    assert access(child.pid, AT + 3 * mfs.PAGE, None) == 0
    access(child.pid, AT + 5 * mfs.PAGE, 7)
    assert os.pread(fd, 1, 5 * mfs.PAGE) == b"\x07"
    assert mfs.info(fd)["pages"] in (1, 2)
    for page in (16, 17):
        with pytest.raises(OSError):
            access(child.pid, AT + page * mfs.PAGE, None)


@pytest.mark.parametrize("access", [by_process_vm, by_proc_mem])
def test_a_remote_access_after_a_punch(
    idle: tuple[int, Callable[..., mfs.Child]], access: Callable[[int, int, int | None], int]
) -> None:
    """The punch makes the kernel look at every attachment.  The next access may be another process's."""
    fd, start = idle
    writer, reader = start(), start(mfs.PROT_READ)
    for turn in range(1, 17):
        for child in (writer, reader):
            mfs.fallocate(fd, mfs.PUNCH_HOLE, 4 * mfs.PAGE, mfs.PAGE)
            os.pwrite(fd, bytes([turn]), 6 * mfs.PAGE)
            assert access(child.pid, AT + 4 * mfs.PAGE, None) == 0
            assert access(child.pid, AT + 6 * mfs.PAGE, None) == turn
        access(writer.pid, AT + 4 * mfs.PAGE, turn)
        assert access(reader.pid, AT + 4 * mfs.PAGE, None) == turn
        with pytest.raises(OSError):
            access(reader.pid, AT + 4 * mfs.PAGE, 99)


@pytest.mark.parametrize("filled", [True, False])
def test_a_worker_of_io_uring_writes_into_the_region(
    region: Regions, probe: Program, tmp_path: pathlib.Path, filled: bool
) -> None:
    fd = region(16, reserve=filled)
    source = tmp_path / "source"
    source.write_bytes(b"\x2a" * mfs.PAGE)
    assert probe("worker", region.path, source, 5) == "result=4096 byte=42\n"
    assert os.pread(fd, 1, 5 * mfs.PAGE) == b"\x2a"


@pytest.mark.parametrize("punched", ["its page", "the next page"])
def test_a_futex_across_processes(region: Regions, punched: str) -> None:
    """The key of a futex in a region is file and offset, so that a waiter outlives its page."""
    fd = region(16, reserve=False)
    addr = mfs.mmap(fd, mfs.UNIT)
    word = ctypes.c_void_p(addr + 3 * mfs.PAGE)

    def wait_there(ready: mfs.Ready, wait: mfs.Wait) -> None:
        own = mfs.mmap(os.open(region.path, os.O_RDWR), mfs.UNIT)
        ready()
        mfs.check(mfs.libc.syscall(FUTEX, ctypes.c_void_p(own + 3 * mfs.PAGE), FUTEX_WAIT, 0, None, None, 0))

    child = mfs.Child(wait_there)
    child.wait_ready()
    call = pathlib.Path(f"/proc/{child.pid}/syscall")
    eventually(lambda: call.read_text().startswith(f"{FUTEX} "), "it does not wait")
    eventually(lambda: oracle.task_state(child.pid) == "S", "it does not sleep")
    mfs.fallocate(fd, mfs.PUNCH_HOLE, (3 if punched == "its page" else 4) * mfs.PAGE, mfs.PAGE)
    assert mfs.libc.syscall(FUTEX, word, FUTEX_WAKE, 1, None, None, 0) == 1
    assert child.result() == 0
    mfs.munmap(addr, mfs.UNIT)


@pytest.mark.parametrize("neighbour", ["idle", "busy"])
def test_a_process_that_was_away_sees_the_hole(region: Regions, neighbour: str) -> None:
    """A process uses the page, leaves its CPU to the idle task (lazy TLB) or to a third process, and comes back."""
    fd = region(16)
    cpus = sorted(os.sched_getaffinity(0))
    addr = mfs.mmap(fd, mfs.UNIT)

    def spin(ready: mfs.Ready, wait: mfs.Wait) -> None:
        os.sched_setaffinity(0, {cpus[-1]})
        mfs.mmap(fd, mfs.UNIT)
        ready()
        while True:
            pass

    def away(ready: mfs.Ready, wait: mfs.Wait) -> None:
        os.sched_setaffinity(0, {cpus[-1]})
        for turn in range(1, 32):
            assert mfs.peek(addr + 5 * mfs.PAGE) == turn
            ready()
            wait()
            assert mfs.peek(addr + 5 * mfs.PAGE) == turn + 101
            ready()
            wait()

    other = mfs.Child(spin) if neighbour == "busy" else None
    if other:
        other.wait_ready()
    os.sched_setaffinity(0, {cpus[0]})
    try:
        mfs.poke(addr + 5 * mfs.PAGE, 1)
        child = mfs.Child(away)
        for turn in range(1, 32):
            child.wait_ready()
            eventually(lambda: oracle.task_state(child.pid) == "S", "it does not wait")
            mfs.fallocate(fd, mfs.PUNCH_HOLE, 5 * mfs.PAGE, mfs.PAGE)
            os.pwrite(fd, bytes([turn + 101]), 5 * mfs.PAGE)
            child.proceed()
            child.wait_ready()
            mfs.poke(addr + 5 * mfs.PAGE, turn + 1)
            child.proceed()
        assert child.result() == 0
    finally:
        os.sched_setaffinity(0, set(cpus))
        if other:
            other.kill()
    mfs.munmap(addr, mfs.UNIT)


@pytest.mark.timeout(300)
def test_walkers_against_punching_truncating_and_dying(region: Regions, probe: Program) -> None:
    """pagemap, smaps, numa_maps, PAGEMAP_SCAN, mincore, move_pages, futex, mlock, process_vm_* all at once."""
    fd = region(61)
    print(probe("walk", region.path, 2 * SECONDS))
    eventually(lambda: mfs.info(fd)["attachments"] == 0, "still attached")
    assert [os.pread(fd, 1, page * mfs.PAGE)[0] for page in range(16)] == list(range(1, 17))
    mfs.protect(fd, 0, 16 * mfs.PAGE, mfs.READWRITE)


def in_a_child(region: Regions, function: Callable[[int, int], object]) -> None:
    """Run in a process that is attached at AT; the pages hold 1 to 16 then and afterwards."""
    fd = region(16)
    for page in range(16):
        os.pwrite(fd, bytes([page + 1]), page * mfs.PAGE)

    def child() -> None:
        mfs.mmap(fd, mfs.UNIT, addr=AT)
        function(fd, AT)
        assert [mfs.peek(AT + page * mfs.PAGE) for page in range(16)] == list(range(1, 17))
        mfs.poke(AT + 15 * mfs.PAGE, 16)

    assert mfs.outcome(child) == 0
    assert mfs.info(fd)["attachments"] == 0
    assert mfs.info(fd)["pages"] == 16
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 0, 16 * mfs.PAGE)


@pytest.mark.parametrize("advice", [*(n for n in range(26) if n != REMOVE), 102, 103])
def test_every_advice(region: Regions, advice: int) -> None:
    """All advice is tried, even numbers that no kernel has yet.  MADV_REMOVE and memory errors have their own tests."""

    def give(fd: int, addr: int) -> None:
        for start, length in ((0, mfs.UNIT), (mfs.PAGE, 3 * mfs.PAGE), (0, 16 * mfs.PAGE)):
            mfs.libc.madvise(addr + start, length, advice)
            assert mfs.peek(addr + mfs.PAGE) == 2
            mfs.poke(addr + 2 * mfs.PAGE, 3)

    in_a_child(region, give)


def test_a_child_goes_without_when_told_so(region: Regions) -> None:
    def divide(fd: int, addr: int) -> None:
        mfs.madvise(addr, mfs.UNIT, DONTFORK)
        assert mfs.outcome(lambda: mfs.peek(addr)) == -signal.SIGSEGV
        mfs.refused(errno.EINVAL, mfs.madvise, addr, mfs.PAGE, DOFORK)  # of a part
        mfs.libc.madvise(addr, mfs.UNIT, DOFORK)

    in_a_child(region, divide)


def test_locking_in_memory(region: Regions) -> None:
    def lock(fd: int, addr: int) -> None:
        mfs.libc.mlock(addr, mfs.UNIT)
        mfs.libc.syscall(MLOCK2, ctypes.c_void_p(addr), ctypes.c_ulong(mfs.UNIT), 1)
        mfs.libc.mlock(addr + mfs.PAGE, mfs.PAGE)
        mfs.libc.munlock(ctypes.c_void_p(addr), ctypes.c_size_t(mfs.UNIT))
        for flags in (2, 6):  # MCL_FUTURE, with MCL_ONFAULT
            mfs.check(mfs.libc.mlockall(flags))
            own = mfs.mmap(fd, mfs.UNIT)
            assert mfs.peek(own) == 1
            mfs.munmap(own, mfs.UNIT)
        mfs.check(mfs.libc.munlockall())

    in_a_child(region, lock)


def test_protection_keys_change_nothing(region: Regions) -> None:
    def key(fd: int, addr: int) -> None:
        keys = [-1, 0]
        made = mfs.libc.syscall(PKEY_ALLOC, 0, 0)
        if made > 0:  # the processor has them
            keys.append(made)
        for key in keys:
            for length in (mfs.UNIT, mfs.PAGE):
                args = (ctypes.c_void_p(addr), ctypes.c_ulong(length), mfs.PROT_READ, key)
                with pytest.raises(OSError):
                    mfs.check(mfs.libc.syscall(PKEY_MPROTECT, *args))

    in_a_child(region, key)


def test_a_mapping_that_is_sealed_in_the_process(region: Regions) -> None:
    """mseal(2), 6.10 and later: neither munmap nor mremap; the end of the process ends it."""

    def seal(fd: int, addr: int) -> None:
        if mfs.libc.syscall(MSEAL, ctypes.c_void_p(addr), ctypes.c_ulong(mfs.UNIT), 0):
            assert ctypes.get_errno() == errno.ENOSYS
            return
        mfs.refused(errno.EPERM, mfs.munmap, addr, mfs.UNIT)
        moved = mfs.libc.mremap(addr, mfs.UNIT, mfs.UNIT, 3, addr + 5 * mfs.UNIT)
        assert moved == mfs.FAILED
        mfs.protect(fd, 0, mfs.PAGE, mfs.READ)
        mfs.protect(fd, 0, mfs.PAGE, mfs.READWRITE)

    in_a_child(region, seal)


def test_remap_file_pages(region: Regions) -> None:
    """The kernel emulates the call by mapping over a part of the attachment, which is refused."""

    def remap(fd: int, addr: int) -> None:
        for start, length, page in ((0, mfs.PAGE, 3), (mfs.PAGE, mfs.PAGE, 0), (0, mfs.UNIT, 1)):
            args = (ctypes.c_void_p(addr + start), ctypes.c_ulong(length), 0, ctypes.c_ulong(page), 0)
            assert mfs.libc.syscall(REMAP_FILE_PAGES, *args) == -1

    in_a_child(region, remap)


def test_write_protection_by_pagemap_scan(region: Regions) -> None:
    """PAGEMAP_SCAN, 6.7 and later, protects the pages that it reports, but not the pages of a region."""
    import fcntl

    def scan(fd: int, addr: int) -> None:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        for flags in (0, 1, 2, 3):  # WP_MATCHING, CHECK_WPASYNC
            vector = ctypes.create_string_buffer(24 * 16)
            raw = struct.pack(
                "=12Q", 96, flags, addr, addr + 16 * mfs.PAGE, 0, ctypes.addressof(vector), 16, 0, 0, 8, 0, 8
            )
            try:
                fcntl.ioctl(pagemap, 0xC0606610, bytearray(raw))
            except OSError as error:
                assert error.errno in (errno.ENOTTY, errno.EPERM, errno.EINVAL)
            for page in range(16):
                mfs.poke(addr + page * mfs.PAGE, page + 1)
        os.close(pagemap)

    in_a_child(region, scan)


def test_who_makes_the_pages_pays_for_them(region: Regions, control_group: Callable[..., str]) -> None:
    """Pages and tables are charged to the first group, while it lives and after.  The second group pays nothing."""
    pages = 2003
    fd = region(pages, reserve=False)

    def current(group: str, field: str = "memory.current") -> str:
        with open(f"{group}/{field}") as f:
            return f.read()

    def tables(group: str) -> int:
        fields = dict(line.split() for line in current(group, "memory.stat").splitlines())
        return int(fields["pagetables"])

    def touch(group: str) -> tuple[int, int]:
        def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
            with open(f"{group}/cgroup.procs", "w") as f:
                f.write(str(os.getpid()))
            addr = mfs.mmap(fd, mfs.UNIT)
            ready()
            wait()
            for page in range(pages):
                mfs.poke(addr + page * mfs.PAGE, 1)
            ready()
            wait()

        process = mfs.Child(child)
        process.wait_ready()
        before = int(current(group))
        process.proceed()
        process.wait_ready()
        grown, paid = int(current(group)) - before, tables(group)
        process.proceed()
        assert process.result() == 0
        return grown, paid

    maker, user = control_group("memory"), control_group("memory")
    # Each CPU holds up to 64 pages of a group's charge back.
    least = (pages - 64 * os.sysconf("SC_NPROCESSORS_ONLN")) * mfs.PAGE
    grown, _ = touch(maker)
    assert grown >= least
    left = int(current(maker))
    assert left >= least, "the charge ended with the process"
    grown, _ = touch(user)
    assert grown < 1 << 20
    assert int(current(maker)) >= least
    os.ftruncate(fd, 0)
    eventually(lambda: int(current(maker)) < least, "the charge outlived the pages")
