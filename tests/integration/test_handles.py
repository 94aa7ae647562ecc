"""Regions without names: their lifetime, the travels of their handles, and all bad messages that a socket can bring."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core.geometry import PAGE, PMD
from mshare.testing.processes import in_child
from tests.helpers.worlds import region_file, window_mappings

SIZE = PMD + 3 * PAGE
HELLO = b"hello"


def descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        except FileNotFoundError:
            continue
    return sorted(link for link in found if "/proc/" not in link)


def hello(backend: str | None = None, **options: Any) -> mshare.Region:
    region = mshare.create_anonymous(SIZE, backend=backend, **options)
    region.buf[: len(HELLO)] = HELLO
    return region


def read_hello(handle: mshare.Handle) -> tuple[int, bool]:
    """Attach, check the contents, and return the address."""
    with mshare.attach(handle) as region:
        assert bytes(region.buf[: len(HELLO)]) == HELLO
        assert region.size == handle.size == SIZE
        return region.addr, region.readonly


def test_it_lives_by_its_mapping_and_by_its_handle_and_dies_with_the_last(nameless: str) -> None:
    before = descriptors()
    region = hello(nameless)
    assert (region.name, region.backend, region.info().named, region.info().path) == ("", nameless, False, "")
    assert mshare.regions() == []
    handle = region.handle()
    addr = region.addr
    region.close()
    assert window_mappings() == []
    assert read_hello(handle) == (addr, False)
    again = mshare.attach(handle)
    handle.close()
    assert bytes(again.buf[:5]) == HELLO
    again.close()
    assert (descriptors(), window_mappings()) == (before, [])


def test_the_creator_dies_and_the_receiver_goes_on(nameless: str, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair

    def create_send_and_die() -> None:
        region = hello(nameless)
        mshare.send_handle(there, region.handle())
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(create_send_and_die).status == -signal.SIGKILL
    with mshare.recv_handle(here) as handle:
        read_hello(handle)


def test_a_receiver_killed_between_receiving_and_attaching_costs_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    here, there = pair
    region = hello()
    mshare.send_handle(here, region.handle())

    def receive_and_die() -> None:
        mshare.recv_handle(there)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(receive_and_die).status == -signal.SIGKILL
    assert region.info().pids == (os.getpid(),)
    mshare.send_handle(here, region.handle())
    with mshare.recv_handle(there) as handle:
        read_hello(handle)


def test_a_thousand_handles_through_one_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    regions = [hello() for _ in range(7)]
    before = len(descriptors())
    for turn in range(1000):
        region = regions[turn % len(regions)]
        with region.handle() as handle:
            mshare.send_handle(here, handle)
        with mshare.recv_handle(there) as received:
            assert (received.addr, received.size, received.backend) == (region.addr, SIZE, region.backend)
    assert len(descriptors()) == before
    for region in regions:
        region.close()


def test_one_descriptor_per_region(nameless: str) -> None:
    """However many objects stand in it; named regions need none at all."""
    before = len(descriptors())
    with mshare.create_anonymous(SIZE, backend=nameless) as region:
        views = [region.buf[start : start + PAGE] for start in range(0, SIZE, PAGE)]
        assert len(descriptors()) == before + 1
        for view in views:
            view.release()
        del views


BY_NUMBER = """
import sys, mshare
with mshare.attach(mshare.Handle.from_fd(int(sys.argv[1]))) as region:
    print(region.addr, bytes(region.buf[:5]).decode())
"""


def test_inherited_over_exec_by_number() -> None:
    with hello() as region, region.map_only() as handle:
        run = subprocess.run(
            [sys.executable, "-c", BY_NUMBER, str(handle.fileno())],
            pass_fds=[handle.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split() == [str(region.addr), "hello"]
        closed = subprocess.run(
            [sys.executable, "-c", BY_NUMBER, str(handle.fileno())], capture_output=True, check=False
        )
        assert closed.returncode == 1  # not inherited unless asked


def test_taken_from_another_process_by_pidfd() -> None:
    with hello() as region, region.handle() as handle:
        number, parent = handle.fileno(), os.getpid()

        def take() -> tuple[int, bool]:
            os.close(number)
            with mshare.Handle.from_process(parent, number) as taken:
                region.close()
                return read_hello(taken)

        assert in_child(take).value == [region.addr, False]
        with pytest.raises(OSError, match="Bad file descriptor"):
            mshare.Handle.from_process(parent, 1 << 20)


def _in_process(handle: mshare.Handle, answers: Any) -> None:
    answers.put(read_hello(handle))


def _from_queue(handles: Any, answers: Any) -> None:
    answers.put(read_hello(handles.get()))


_given: list[mshare.Handle] = []


def _initialize(handle: mshare.Handle) -> None:
    _given.append(handle)


def _in_pool(_: int) -> tuple[int, bool]:
    return read_hello(_given[0])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads, the queue's own
def test_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with hello() as region:
        answers = context.Queue()
        process = context.Process(target=_in_process, args=(region.map_only(), answers))
        process.start()
        assert answers.get(timeout=60) == (region.addr, True)
        process.join()
    with hello() as region:
        handles = context.Queue()
        process = context.Process(target=_from_queue, args=(handles, answers))
        process.start()
        handles.put(region.handle())
        assert answers.get(timeout=60) == (region.addr, False)
        process.join()
        with context.Pool(3, initializer=_initialize, initargs=(region.handle(),)) as pool:
            assert pool.map(_in_pool, range(5)) == [(region.addr, False)] * 5
        for queue in (handles, answers):
            queue.close()
            queue.join_thread()


# ---- other things that may come over a socket ----


def _plain_file(world: Path) -> int:
    return os.open(world / "file", os.O_RDWR | os.O_CREAT)


def _pipe(world: Path) -> int:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    return read_fd


def _foreign_memfd(world: Path) -> int:
    fd = os.memfd_create("foreign")
    os.ftruncate(fd, SIZE)
    return fd


def _wrong_size(world: Path) -> int:
    fd = os.memfd_create("cut")
    os.write(fd, region_file(8 * PAGE, length=3 * PAGE))
    return fd


def _write_only(world: Path) -> int:
    (world / "region").write_bytes(region_file())
    return os.open(world / "region", os.O_WRONLY)


def _path_only(world: Path) -> int:
    (world / "region").write_bytes(region_file())
    return os.open(world / "region", os.O_PATH)


STRANGE: dict[str, Callable[[Path], int]] = {
    "a plain file": _plain_file,
    "a pipe": _pipe,
    "a directory": lambda world: os.open(world, os.O_RDONLY),
    "a memfd of someone else": _foreign_memfd,
    "the wrong size": _wrong_size,
    "open for writing only": _write_only,
    "O_PATH": _path_only,
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_descriptor_of_no_region_is_refused_and_closed(
    world: Path, pair: tuple[socket.socket, socket.socket], strange: str
) -> None:
    here, there = pair
    fd = STRANGE[strange](world)
    socket.send_fds(here, [b"M"], [fd])
    os.close(fd)
    before = descriptors()
    with pytest.raises(mshare.NotARegionError):
        mshare.recv_handle(there)
    assert descriptors() == before


@pytest.mark.parametrize("count", [0, 2, 3, 11])
def test_a_message_with_another_number_of_descriptors_is_refused(
    pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    here, there = pair
    with hello() as region:
        handles = [region.handle() for _ in range(count)]
        socket.send_fds(here, [b"M"], [handle.fileno() for handle in handles])
        for handle in handles:
            handle.close()
        before = descriptors()
        with pytest.raises(mshare.NotAHandleError):
            mshare.recv_handle(there)
        assert descriptors() == before


def test_a_socket_that_closes(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    here.close()
    with pytest.raises(mshare.NotAHandleError, match="closed the socket"):
        mshare.recv_handle(there)


def test_more_descriptors_than_the_receiver_may_have(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    region = hello()
    mshare.send_handle(here, region.handle())
    mshare.send_handle(here, region.handle())

    def receive() -> int:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        fillers = []
        try:
            while True:
                fillers.append(os.dup(there.fileno()))
        except OSError:
            pass
        with pytest.raises(mshare.DescriptorLimitError):
            mshare.recv_handle(there)
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        before = descriptors()
        mshare.recv_handle(there).close()  # the next one
        return len(descriptors()) - len(before)

    assert in_child(receive).value == 0
    region.close()


def test_a_closed_handle(pair: tuple[socket.socket, socket.socket]) -> None:
    with hello() as region:
        handle = region.handle()
        handle.close()
        handle.close()
        assert handle.closed
        for call in (handle.fileno, handle.duplicate, handle.map_only, lambda: mshare.attach(handle)):
            with pytest.raises(mshare.RegionClosedError):
                call()
        with pytest.raises(mshare.RegionClosedError):
            mshare.send_handle(pair[0], handle)
    with pytest.raises(mshare.RegionClosedError):
        region.handle()


# ---- names ----


def test_a_name_is_given_in_one_step_and_only_once(backend: str) -> None:
    region = hello(backend, linkable=True)
    assert mshare.regions() == []
    mshare.create("taken", PAGE).close()
    with pytest.raises(mshare.RegionExistsError):
        region.link("taken")
    for name in ("", ".hidden", "a/b"):
        with pytest.raises(mshare.InvalidNameError):
            region.link(name)
    assert region.name == ""
    region.link("r", mode=0o640)
    assert region.name == "r"
    with pytest.raises(mshare.RegionExistsError, match="has a name"):
        region.link("again")
    info = next(info for info in mshare.regions() if info.name == "r")
    assert (info.mode, info.addr, info.orphan, info.backend) == (0o640, region.addr, False, backend)

    def attach() -> bytes:
        region.close()
        with mshare.attach("r") as mine:
            return bytes(mine.buf[:5])

    assert in_child(lambda: attach().decode()).value == "hello"
    assert mshare.mshare_unlink("r")
    assert region.closed


def test_who_attached_by_handle_before_the_name_came_counts(world: Path) -> None:
    region = hello(linkable=True)
    with region.handle() as handle:
        other = mshare.attach(handle, addr=mshare.ANYWHERE)
    region.link("r")
    region.close()
    assert not mshare.regions()[0].orphan
    assert mshare.gc() == []
    other.close()
    assert [info.name for info in mshare.gc()] == ["r"]


def test_a_memfd_can_have_no_name(nameless: str) -> None:
    with hello(nameless) as region, pytest.raises(mshare.BackendUnavailableError, match="linkable"):
        region.link("r")
    assert mshare.regions() == []


def test_a_handle_of_a_named_region(backend: str) -> None:
    region = mshare.create("r", SIZE, backend=backend)
    region.buf[:5] = HELLO
    with region.handle() as handle:
        assert read_hello(handle) == (region.addr, False)
        mshare.unlink("r")
        region.close()
        assert read_hello(handle)[1] is False  # the descriptor keeps it
    with mshare.create("r", SIZE, backend=backend) as region:
        mshare.unlink("r")
        mshare.create("r", PAGE).close()
        with pytest.raises(mshare.RegionNotFoundError, match="lost its name"):
            region.handle()
    mshare.unlink("r")


def test_a_read_only_region_gives_read_only_handles(world: Path) -> None:
    mshare.create("r", SIZE, fill=lambda view: view.__setitem__(slice(0, 5), HELLO)).close()
    with mshare.attach("r", readonly=True) as region, region.handle() as handle:
        assert handle.readonly
        assert read_hello(handle)[1]
        with pytest.raises(mshare.AccessDeniedError):
            mshare.attach(handle, readonly=False, addr=mshare.ANYWHERE)
    mshare.unlink("r")
