"""Rights that the kernel ties to a handle, and to sealed memory: every attempt at more rights, as root."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE, PMD
from mshare._core.linux import memfd
from mshare.testing.processes import in_child
from tests.helpers.worlds import needs_root

SIZE = PMD + 3 * PAGE
_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def reopened(handle: mshare.Handle) -> int:
    return os.open(f"/proc/self/fd/{handle.fileno()}", os.O_RDWR)


def store(region: mshare.Region) -> None:
    """Store a byte, in a child: the processor's refusal is a SIGSEGV."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        ctypes.c_char.from_address(region.addr).value = b"X"
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError("it died")


def iovec(addr: int, length: int) -> Any:
    return (ctypes.c_size_t * 2)(addr, length)


def vm_writev(region: mshare.Region) -> None:
    source = ctypes.create_string_buffer(b"X")
    remote, local = iovec(region.addr, 1), iovec(ctypes.addressof(source), 1)
    checked(_libc.process_vm_writev(os.getpid(), local, 1, remote, 1, 0))


def proc_mem(region: mshare.Region) -> None:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
        memory.seek(region.addr)
        memory.write(b"X")


def poke_by_a_tracer(region: mshare.Region) -> None:
    """Let a child trace this process and write into its memory, as a debugger would."""
    ready, go = os.pipe(), os.pipe()
    tracer = os.fork()
    if tracer == 0:
        os.read(go[0], 1)
        try:
            checked(_libc.ptrace(16, os.getppid(), None, None))  # PTRACE_ATTACH
            os.waitpid(os.getppid(), 0)
        except OSError:
            pass
        with open(f"/proc/{os.getppid()}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123
            memory.seek(region.addr)
            try:
                memory.write(b"X")
                os._exit(0)
            except OSError:
                os._exit(7)
    _libc.prctl(0x59616D61, ctypes.c_ulong(tracer), 0, 0, 0)  # PR_SET_PTRACER, where Yama is
    os.write(go[1], b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(tracer, 0)[1])
    for fd in (*ready, *go):
        os.close(fd)
    if status:
        raise OSError(status, "the tracer was refused")


def direct_read_into(region: mshare.Region) -> None:
    """Have the kernel write by read(2) into the mapping, with O_DIRECT if the file system has it."""
    path = Path("/var/tmp") / f"mshare-direct-{os.getpid()}"
    path.write_bytes(b"X" * PAGE)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        checked(_libc.read(fd, ctypes.c_void_p(region.addr), PAGE))
    finally:
        os.close(fd)
        path.unlink()


def mprotect(region: mshare.Region) -> None:
    checked(_libc.mprotect(ctypes.c_void_p(region.addr), PAGE, mmap.PROT_READ | mmap.PROT_WRITE))
    store(region)


def remap_file_pages(region: mshare.Region) -> None:
    checked(_libc.remap_file_pages(ctypes.c_void_p(region.addr), PAGE, 0, 0, 0))
    store(region)


def map_writable(handle: mshare.Handle) -> None:
    mmap.mmap(reopened(handle), PAGE)[0] = 88


def map_the_duplicate(handle: mshare.Handle) -> None:
    mmap.mmap(fcntl.fcntl(handle.fileno(), fcntl.F_DUPFD_CLOEXEC, 100), PAGE)[0] = 88


def punch(handle: mshare.Handle) -> None:
    checked(_libc.fallocate(reopened(handle), 3, ctypes.c_long(0), ctypes.c_long(PMD)))


def madvise_remove(region: mshare.Region) -> None:
    checked(_libc.madvise(ctypes.c_void_p(region.addr), PMD, 9))


BY_HANDLE: dict[str, Callable[[mshare.Handle], Any]] = {
    "write": lambda handle: os.pwrite(handle.fileno(), b"X", 0),
    "reopen and write": lambda handle: os.pwrite(reopened(handle), b"X", 0),
    "reopen and map": map_writable,
    "duplicate and map": map_the_duplicate,
    "shrink": lambda handle: os.ftruncate(reopened(handle), PMD),
    "grow": lambda handle: os.ftruncate(reopened(handle), 64 * PMD),
    "punch": punch,
    "seal": lambda handle: memfd.add_seals(reopened(handle), memfd.WRITE),
    "seal the seals": lambda handle: memfd.add_seals(reopened(handle), memfd.SEAL),
    "attach read-write": lambda handle: mshare.attach(handle, readonly=False, addr=mshare.ANYWHERE),
    "give it a name": lambda handle: os.link(f"/proc/self/fd/{handle.fileno()}", "/dev/shm/mshare-linked"),
}
BY_MAPPING: dict[str, Callable[[mshare.Region], Any]] = {
    "mprotect": mprotect,
    "remap_file_pages": remap_file_pages,
    "process_vm_writev": vm_writev,
    "/proc/self/mem": proc_mem,
    "a tracer": poke_by_a_tracer,
    "O_DIRECT": direct_read_into,
    "MADV_REMOVE": madvise_remove,
}


def by_every_road(handle: mshare.Handle) -> list[str]:
    """Try all attempts in this process, and return those that were not refused."""
    open_roads = []
    for name, road in BY_HANDLE.items():
        try:
            road(handle)
            open_roads.append(name)
        except OSError:
            continue
    with mshare.attach(handle) as region:
        for name, way in BY_MAPPING.items():
            try:
                way(region)
                open_roads.append(name)
            except OSError:
                continue
    return open_roads


@needs_root
@pytest.mark.parametrize("kind", ["map-only", "sealed"])
def test_no_road_leads_to_more_rights(nameless: str, kind: str) -> None:
    writer = mshare.create_anonymous(SIZE, backend=nameless)
    writer.buf[:5] = b"hello"
    if kind == "sealed":
        writer.seal()
    handle = writer.map_only() if kind == "map-only" else writer.handle()

    def attack() -> list[str]:
        writer.close()  # inherited through fork
        return by_every_road(handle)

    assert in_child(attack).value == []
    assert bytes(writer.buf[:6]) == b"hello\0"
    assert os.fstat(handle.fileno()).st_nlink == 0
    if kind == "map-only":
        writer.buf[0] = ord("j")  # its own mapping was there before
        assert in_child(lambda: mshare.attach(handle, addr=mshare.ANYWHERE).buf[0]).value == ord("j")
    handle.close()
    writer.close()


@needs_root
def test_those_roads_lead_somewhere_with_a_handle_that_is_not_map_only(world: Path) -> None:
    """The same attempts succeed with other handles. Without this test the test above would prove nothing."""
    with mshare.create_anonymous(SIZE, backend="shm") as writer, writer.handle() as handle:

        def attack() -> list[str]:
            writer.close()
            return by_every_road(handle)

        # Four attempts always fail, because the file is a memfd with a fixed size that is mapped writable.
        always_refused = {"shrink", "grow", "seal", "give it a name"}
        assert set(in_child(attack).value) == (set(BY_HANDLE) | set(BY_MAPPING)) - always_refused


def test_what_cannot_be_enforced_is_refused(backend: str) -> None:
    with mshare.create("r", SIZE, backend=backend) as region:
        for readonly in (True, False):
            with pytest.raises(mshare.BackendUnavailableError):
                region.map_only(readonly=readonly)
        with pytest.raises(mshare.BackendUnavailableError):
            region.seal()
        assert not region.sealed
        region.buf[0] = 1
    with mshare.create_anonymous(SIZE, backend=backend) as region, pytest.raises(mshare.BackendUnavailableError):
        region.map_only(readonly=False)


def test_sealing_is_refused_while_others_write_and_changes_nothing(nameless: str) -> None:
    ready, stop = os.pipe(), os.pipe()
    region = mshare.create_anonymous(SIZE, backend=nameless)
    region.buf[0] = 1
    pid = os.fork()
    if pid == 0:
        os.close(stop[1])
        region.buf[1] = 1
        os.write(ready[1], b"x")
        os.read(stop[0], 1)
        os._exit(0)
    os.close(stop[0])
    os.read(ready[0], 1)
    with pytest.raises(mshare.RegionBusyError, match=str(pid)):
        region.seal()
    assert not region.sealed
    assert not region.readonly
    region.buf[2] = 1
    os.close(stop[1])
    os.waitpid(pid, 0)
    view = region.buf
    with pytest.raises(mshare.ViewsAliveError):
        region.seal()
    view[3] = 1
    view.release()
    region.seal()
    region.seal()
    assert region.sealed
    assert region.readonly
    assert bytes(region.buf[:4]) == bytes([1, 1, 1, 1])
    with pytest.raises(TypeError):
        region.buf[0] = 2
    with pytest.raises(OSError, match="died"):
        store(region)
    with region.handle() as handle, mshare.attach(handle, require_sealed=True) as again:
        assert again.readonly
        assert again.addr == region.addr
    region.close()
    for fd in (*ready,):
        os.close(fd)


def test_unsealed_is_refused_where_sealed_was_required(world: Path) -> None:
    mshare.create("named", PAGE).close()
    with pytest.raises(mshare.NotSealedError):
        mshare.attach("named", require_sealed=True)
    with mshare.create_anonymous(SIZE) as region, region.map_only() as handle:
        with pytest.raises(mshare.NotSealedError):  # its creator can still write
            mshare.attach(handle, require_sealed=True)
        assert region.info().pids == (os.getpid(),)
    mshare.unlink("named")


def test_nobody_can_cut_a_region_short_under_its_users(nameless: str) -> None:
    with mshare.create_anonymous(SIZE, backend=nameless) as region, region.handle() as handle:
        for size in (0, PMD, 64 * PMD):
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(handle.fileno(), size - size % PMD)
        region.buf[-1] = 1


def test_memory_is_given_back(world: Path) -> None:
    def shared_bytes() -> int:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:")) << 10

    large = 256 << 20
    subprocess.run(["sync"], check=True)

    def taken_and_given_back() -> bool:
        before = shared_bytes()
        region = mshare.create_anonymous(large, backend="thp")
        handle = region.handle()
        region.close()
        taken = shared_bytes() - before
        handle.close()
        return taken > large // 2 > shared_bytes() - before

    # Other processes take and give back memory in between, so the test looks up to ten times.
    assert any(taken_and_given_back() for _ in range(10))


def test_a_read_only_attachment_of_a_writable_handle_stays_so(world: Path) -> None:
    """Before, mprotect made such a mapping writable, and seal() was refused because the mapping could write."""
    region = mshare.create_anonymous(PAGE, backend="shm")

    def holder() -> str:
        own = mshare.attach(region.handle(), readonly=True, addr=mshare.ANYWHERE)
        region.close()
        with pytest.raises(PermissionError):
            checked(_libc.mprotect(ctypes.c_void_p(own.addr), PAGE, mmap.PROT_READ | mmap.PROT_WRITE))
        os.write(ready, b"r")
        os.read(go, 1)
        own.seal()
        return "sealed"

    is_ready, ready = os.pipe()
    go, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            code = 0 if holder() == "sealed" else 1
        except BaseException:
            code = 2
        os._exit(code)
    os.close(ready)
    told = os.read(is_ready, 1)  # nothing, if the child has ended
    region.close()
    os.write(go_on, b"g")
    assert (told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) == (b"r", 0)
    for fd in (is_ready, go, go_on):
        os.close(fd)
