"""Nothing can write through a read-only attachment. Closing, forking and dying leave nothing dangling."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PMD
from mshare.testing.conformance import files
from mshare.testing.processes import Nursery, WorkerDied, in_child, wait_readable
from tests.helpers.worlds import STRANGER, needs_root, window_mappings

SIZE = PMD
_libc = ctypes.CDLL(None, use_errno=True)
CREATE_READONLY = os.O_CREAT | os.O_EXCL | os.O_RDONLY


def pointer(addr: int, length: int = 8) -> Any:
    """Return a writable buffer at `addr`, as C code would use it."""
    return (ctypes.c_ubyte * length).from_address(addr)


@pytest.fixture(params=["attached", "frozen"])
def readonly(request: pytest.FixtureRequest, backend: str, monkeypatch: pytest.MonkeyPatch) -> mshare.Region:
    """A read-only attachment: of an ordinary region, and of the creator of one made with O_CREAT | O_RDONLY."""
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    if request.param == "frozen":
        return mshare.mshare("r", None, SIZE, CREATE_READONLY)
    with mshare.create("r", SIZE) as region:
        region.buf[:3] = b"abc"
    return mshare.attach("r", readonly=True)


def write_by_store(addr: int) -> None:
    ctypes.memset(addr, 0xFF, 1)


def write_after_mprotect(addr: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(addr), 4096, 3):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.memset(addr, 0xFF, 1)


def write_by_readv(addr: int) -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"\xff" * 8)
    os.readv(read_fd, [pointer(addr)])


def write_by_direct_io(addr: int) -> None:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(b"\xff" * 4096)
        file.flush()
        try:
            fd = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            fd = os.open(file.name, os.O_RDONLY)  # on a file system without the call, an ordinary read must suffice
        os.readv(fd, [pointer(addr, 4096)])


def write_by_recv(addr: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.send(b"\xff" * 8)
    ours.recv_into(pointer(addr))


def write_by_proc_mem(addr: int) -> None:
    fd = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(fd, b"\xff", addr)


def write_by_process_vm(addr: int) -> None:
    class Iovec(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    source = ctypes.create_string_buffer(b"\xff" * 8)
    local, remote = Iovec(ctypes.addressof(source), 8), Iovec(addr, 8)
    if _libc.process_vm_writev(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_writev")


ROADS: dict[Callable[[int], None], tuple[str, ...]] = {
    write_by_store: (),
    write_after_mprotect: ("PermissionError",),
    write_by_readv: ("EFAULT",),
    write_by_direct_io: ("EFAULT",),
    write_by_recv: ("EFAULT",),
    write_by_proc_mem: ("EIO", "EFAULT"),
    write_by_process_vm: ("EFAULT",),
}


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
def test_no_road_leads_through_a_read_only_attachment(readonly: mshare.Region, road: Callable[[int], None]) -> None:
    before = bytes(readonly.buf)

    def attempt() -> str:
        try:
            road(readonly.addr)
        except PermissionError:
            return "PermissionError"
        except OSError as error:
            return str(os.strerror(error.errno or 0))
        return "written"

    ended = in_child(attempt)
    if road is write_by_store:
        assert ended.status == -signal.SIGSEGV
    else:
        assert ended.status == 0
        words = {"EFAULT": "Bad address", "EIO": "Input/output error"}
        assert ended.value in [words.get(word, word) for word in ROADS[road]]
    assert bytes(readonly.buf) == before
    readonly.close()


def test_python_refuses_to_write_through_it(readonly: mshare.Region) -> None:
    view = readonly.buf
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError):
        ctypes.c_char.from_buffer(view)
    numpy = pytest.importorskip("numpy", reason="numpy is an extra")
    array = readonly.ndarray(numpy.uint8, 4096)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    del array
    view.release()
    readonly.close()
    assert window_mappings() == []


@pytest.mark.parametrize("uid", [None, pytest.param(STRANGER, marks=needs_root)])
def test_nobody_attaches_a_frozen_region_read_write(backend: str, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    with mshare.mshare("r", None, SIZE, CREATE_READONLY, 0o666) as region:
        assert region.readonly
        assert region.info().frozen

        def attempt() -> list[str]:
            outcomes = []
            for call in (
                partial(mshare.attach, "r"),
                partial(mshare.attach, "r", addr=mshare.ANYWHERE),
                partial(mshare.mshare, "r", None, 0, os.O_RDWR),
                partial(mshare.mshare, "r", None, SIZE, os.O_RDWR | os.O_CREAT),
            ):
                try:
                    call().close()
                    outcomes.append("attached")
                except mshare.MshareError as error:
                    outcomes.append(type(error).__name__)
            mshare.attach("r", readonly=True).close()
            return outcomes

        assert in_child(attempt, uid=uid).value == ["AccessDeniedError"] * 4
        assert not any(region.buf)
    assert mshare.mshare_unlink("r")


@needs_root
def test_read_write_needs_the_permission(backend: str) -> None:
    mshare.create("r", SIZE, backend=backend, mode=0o644).close()

    def attempt() -> str:
        with pytest.raises(mshare.AccessDeniedError) as caught:
            mshare.attach("r")
        with mshare.attach("r", readonly=True) as region:
            assert region.readonly
        return str(caught.value)

    message = in_child(attempt, uid=STRANGER).value
    assert "0644" in message
    assert f"uid {STRANGER}" in message
    assert "readonly=True" in message


def test_more_rights_than_the_mapping_has(backend: str) -> None:
    mshare.create("r", SIZE, backend=backend).close()
    with mshare.attach("r", readonly=True) as first:
        with pytest.raises(mshare.ReadOnlyMappingError):
            mshare.attach("r")
        with mshare.attach("r", readonly=True) as second:
            assert second.addr == first.addr
        with mshare.attach("r", addr=mshare.ANYWHERE) as third:
            third.buf[0] = 9
        assert first.buf[0] == 9
    with mshare.attach("r") as writable:
        writable.buf[0] = 8


VIEWS: dict[str, Callable[[mshare.Region], Any]] = {
    "memoryview": lambda region: region.buf,
    "slice": lambda region: region.buf[7:13],
    "cast": lambda region: region.buf[:16].cast("Q"),
    "ctypes": lambda region: ctypes.c_char.from_buffer(region.buf),
    "iterator": lambda region: iter(region.buf),
    "numpy": lambda region: region.ndarray("u1", 100),
    "numpy slice": lambda region: region.ndarray("u4", (10, 10), 4)[3:, ::2],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_live_view_forbids_every_way_of_closing(world: Path, kind: str) -> None:
    if "numpy" in kind:
        pytest.importorskip("numpy", reason="numpy is an extra")
    region = mshare.create("r", SIZE)
    other = mshare.attach("r")
    view = VIEWS[kind](region)
    for close in (region.close, lambda: mshare.mshare_unlink("r"), lambda: region.__exit__(None, None, None)):
        with pytest.raises(BufferError) as caught:
            close()
        assert isinstance(caught.value, mshare.ViewsAliveError)
        assert not region.closed
        assert not other.closed
        assert len(window_mappings()) == 1
        assert [path.name for path in files()] == ["r"]
        region.buf[0] = 1
        assert other.buf[0] == 1
    del view
    gc.collect()
    region.close()
    assert len(window_mappings()) == 1
    other.close()
    assert window_mappings() == []


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_outlives_the_object_it_came_from(world: Path, kind: str) -> None:
    if "numpy" in kind:
        pytest.importorskip("numpy", reason="numpy is an extra")
    region = mshare.create("r", SIZE)
    view = VIEWS[kind](region)
    del region
    gc.collect()
    assert len(window_mappings()) == 1
    assert not mshare.regions()[0].orphan
    with pytest.raises(mshare.ViewsAliveError):
        mshare.mshare_unlink("r")
    assert view is not None
    del view
    gc.collect()
    assert window_mappings() == []
    assert mshare.regions()[0].orphan


def test_an_error_on_its_way_out_of_a_with_block_matters_more(world: Path) -> None:
    region = mshare.create("r", SIZE)
    view = region.buf
    with pytest.raises(ZeroDivisionError), region:
        view[0] = 1 // 0
    assert region.closed
    assert view[0] == 0
    view.release()
    del view
    gc.collect()
    assert window_mappings() == []


def test_closing_twice_and_use_after_close(backend: str) -> None:
    region = mshare.create("r", SIZE, backend=backend)
    region.close()
    region.close()
    with region:
        pass
    for use in (lambda: region.buf, region.info, lambda: region.ndarray("u1", 1)):
        with pytest.raises(mshare.RegionClosedError):
            use()
    assert (region.name, region.size, region.closed) == ("r", SIZE, True)
    assert "closed" in repr(region)
    with pytest.raises(TypeError):
        region.__reduce__()


def test_fork_then_close_in_one_of_the_two(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    with Nursery() as nursery:
        for closer in (0, 1):
            parent = nursery.start()
            assert parent.do("create", number=1, name="r", size=SIZE, backend=backend).error is None
            pair = [parent, parent.fork()]
            assert pair[closer].do("close", number=1).error is None
            assert pair[1 - closer].do("store", number=1, offset=5, value=7).error is None
            assert mshare.regions()[0].pids == (pair[1 - closer].pid,)
            assert not mshare.regions()[0].orphan
            assert pair[closer].do("mshare_unlink", name="r").error == "RegionBusyError"
            assert pair[1 - closer].do("load", number=1, offset=5).value == 7
            assert pair[1 - closer].do("mshare_unlink", name="r").value is True
            assert files() == []


def test_a_process_that_faults_is_seen_to_die(world: Path) -> None:
    """The controller of all these tests tells a death from an answer."""
    with Nursery() as nursery:
        worker = nursery.start()
        with pytest.raises(WorkerDied) as caught:
            worker.do("exit")
        assert caught.value.status == 0


def test_an_attachment_keeps_no_descriptor_open(backend: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    held = [mshare.create(f"r{number}", 1, backend=backend) for number in range(7)]
    held += [mshare.attach(f"r{number}", readonly=True) for number in range(7)]
    mshare.regions()
    assert sorted(os.listdir("/proc/self/fd")) == before
    for region in held:
        region.close()


def test_the_resource_tracker_never_starts(world: Path) -> None:
    script = """
import mshare, os
from multiprocessing import resource_tracker
with mshare.create("r", 8192) as region, mshare.attach("r"):
    if os.fork() == 0:
        os._exit(0)
    os.wait()
mshare.unlink("r")
assert resource_tracker._resource_tracker._fd is None
resource_tracker.ensure_running()  # so that the line above is known to mean something
assert resource_tracker._resource_tracker._fd is not None
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_exec_releases(world: Path) -> None:
    """A program that takes the process's place holds nothing."""
    ready_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        mshare.create("r", SIZE)
        os.set_inheritable(write_fd, True)
        script = f"import os; os.write({write_fd}, b'x'); os.read(0, 1)"
        stdin, _ = os.pipe()
        os.dup2(stdin, 0)
        os.execv(sys.executable, [sys.executable, "-c", script])
    wait_readable(ready_fd)
    try:
        info = mshare.regions()[0]
        assert (info.name, info.pids, info.orphan) == ("r", (), True)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready_fd)
        os.close(write_fd)
