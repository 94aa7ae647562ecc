"""The two designs of the 2022 discussion, names and descriptors, and the cost of each. docs/two-designs.md has a row
for each test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mshare
from mshare._core.linux.mounts import private
from mshare.testing.processes import LIMIT_S, in_child
from tests.helpers.waiting import eventually
from tests.helpers.worlds import STRANGER, needs_root

SIZE = 3 * 4096


@contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """Fork a process that does `work` and then waits for its end, which comes by SIGKILL. Gives its pid when ready."""
    ready, working = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            work()
            os.write(working, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(working)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    try:
        yield pid
    finally:
        kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def fill(view: memoryview) -> None:
    view[:5] = b"hello"


def listen(at: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(at))
    listener.listen()
    return listener


def ask(at: Path) -> mshare.Handle:
    """Get a handle from the process that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(str(at))
        return mshare.recv_handle(sock)


def serve(listener: socket.socket, handle: mshare.Handle) -> None:
    while True:
        client, _ = listener.accept()
        with client:
            mshare.send_handle(client, handle)


@contextmanager
def server(at: Path) -> Iterator[int]:
    """Give a process that holds a nameless region and sends a handle to every process that connects."""
    pid = os.fork()
    if pid == 0:
        try:
            with listen(at) as listener, mshare.create_anonymous(SIZE, fill=fill) as region:
                (at.parent / "ready").touch()
                serve(listener, region.handle())
        finally:
            os._exit(1)
    try:
        eventually((at.parent / "ready").exists)
        yield pid
    finally:
        kill(pid)


def maps_nameless_region(pid: int) -> bool:
    """Return whether a process maps a nameless region, as /proc tells it. The path of a mapping can have any bytes."""
    try:
        return b"/memfd:mshare" in Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return False


# ---- the weak link ----


def test_a_server_with_the_only_descriptor_is_a_weak_link(tmp_path: Path) -> None:
    at = tmp_path / "socket"
    with server(at) as pid:
        client = mshare.attach(ask(at))
        kill(pid)
        assert bytes(client.buf[:5]) == b"hello"  # an attached process stays attached
        with pytest.raises(ConnectionRefusedError):  # and nobody else gets in
            ask(at)
        client.close()
        assert not maps_nameless_region(pid)


def test_any_client_can_hand_it_on(tmp_path: Path) -> None:
    at, second = tmp_path / "socket", tmp_path / "second"
    with server(at) as pid:
        handle = ask(at)
        kill(pid)
        with listen(second) as listener:
            helper = os.fork()
            if helper == 0:
                serve(listener, handle)
            try:
                with mshare.attach(ask(second)) as region:
                    assert bytes(region.buf[:5]) == b"hello"
            finally:
                kill(helper)
        handle.close()


def test_a_name_needs_no_server(world: Path) -> None:
    with process(lambda: mshare.create("sga", SIZE, fill=fill).close()) as pid:
        kill(pid)
        for _ in range(3):
            with mshare.attach("sga") as region:
                assert bytes(region.buf[:5]) == b"hello"
    mshare.unlink("sga")


def test_a_database_starts_nameless_and_publishes_when_ready(world: Path) -> None:
    def start() -> None:
        region = mshare.create_anonymous(SIZE, linkable=True, fill=fill)
        assert mshare.regions() == []
        region.link("sga")

    with process(start) as pid:
        kill(pid)
        with mshare.attach("sga") as region:
            assert bytes(region.buf[:5]) == b"hello"
    mshare.unlink("sga")


# ---- orphans and cleaning up ----


def test_a_named_region_stays_as_an_orphan_and_is_found_by_name(world: Path) -> None:
    with process(lambda: mshare.create("sga", SIZE, fill=fill).close()):
        pass
    assert [(info.name, info.orphan) for info in mshare.regions()] == [("sga", True)]
    assert [info.name for info in mshare.gc()] == ["sga"]


def test_a_nameless_region_goes_with_its_last_process_and_there_is_nothing_to_clean(world: Path) -> None:
    regions: list[mshare.Region] = []
    with process(lambda: regions.append(mshare.create_anonymous(SIZE))) as pid:
        assert maps_nameless_region(pid)
        assert mshare.regions() == []  # the price: nobody can find the region either
        kill(pid)
        assert not maps_nameless_region(pid)


# ---- permissions ----


@needs_root
def test_a_name_is_open_to_whom_its_mode_says(world: Path) -> None:
    mshare.create("closed", SIZE).close()
    mshare.create("readable", SIZE, mode=0o644).close()

    def try_all() -> list[str]:
        with pytest.raises(mshare.AccessDeniedError):
            mshare.attach("closed")
        with pytest.raises(mshare.AccessDeniedError):
            mshare.attach("readable")
        mshare.attach("readable", readonly=True).close()
        return []

    assert in_child(try_all, uid=STRANGER).value == []
    for name in ("closed", "readable"):
        mshare.unlink(name)


@needs_root
def test_a_descriptor_is_open_to_whom_it_is_given(pair: tuple[socket.socket, socket.socket]) -> None:
    """Another user can use the handles that it was given, and cannot take others."""
    here, there = pair
    with mshare.create_anonymous(SIZE, fill=fill) as region:
        with region.map_only() as given:
            mshare.send_handle(here, given)
        kept = region.handle()
        me, number = os.getpid(), kept.fileno()

        def use_and_take() -> str:
            with pytest.raises(PermissionError):
                mshare.Handle.from_process(me, number)
            with pytest.raises(PermissionError):
                os.open(f"/proc/{me}/fd/{number}", os.O_RDONLY)
            with mshare.recv_handle(there) as handle, mshare.attach(handle, addr=mshare.ANYWHERE) as mine:
                return bytes(mine.buf[:5]).decode()

        assert in_child(use_and_take, uid=STRANGER).value == "hello"
        kept.close()


def test_names_can_be_squatted_on_and_descriptors_cannot(world: Path) -> None:
    mshare.create("sga", SIZE).close()
    with pytest.raises(mshare.RegionExistsError):
        mshare.create("sga", SIZE)
    with mshare.create_anonymous(SIZE), mshare.create_anonymous(SIZE):
        pass
    mshare.unlink("sga")


# ---- namespaces and containers ----


@needs_root
def test_a_container_sees_no_name_but_can_be_given_a_descriptor(
    world: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Another mount namespace has its own /dev/shm, as a container has."""
    mshare.create("sga", SIZE, fill=fill).close()
    here, there = pair
    with mshare.create_anonymous(SIZE, fill=fill) as region, region.handle() as handle:
        mshare.send_handle(here, handle)

    def contained() -> str:
        assert private()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(world / "shm")], check=True)
        with pytest.raises(mshare.RegionNotFoundError):
            mshare.attach("sga")
        with mshare.recv_handle(there) as received, mshare.attach(received) as mine:
            return bytes(mine.buf[:5]).decode()

    assert in_child(contained).value == "hello"
    mshare.unlink("sga")
