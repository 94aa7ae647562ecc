"""Locks on msharefs: when an owner ends, the kernel's list of robust mutexes reaches the shared tables' memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mshare
from mshare.testing.processes import in_child
from tests.helpers import counting

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def region(world: Path) -> Iterator[mshare.Region]:
    """A region on a private msharefs. The unmount at the end proves that nothing is attached any more."""
    mount_point = world / "msharefs"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "msharefs", "-o", "mode=1777", "none", str(mount_point)], check=True)
    with mshare.create("locks", counting.SIZE, backend="msharefs") as made:
        yield made
    mshare.unlink("locks")
    subprocess.run(["umount", str(mount_point)], check=True)


def killed(function: Callable[[], object]) -> None:
    def run() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run).status == -signal.SIGKILL


def assert_owner_died(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    with pytest.raises(mshare.OwnerDiedError):
        lock.acquire(timeout=100)
    with lock.recover(timeout=100) as died:
        assert died is not None


def test_an_owner_is_killed(region: mshare.Region) -> None:
    """The child inherits the attachment."""
    killed(mshare.Lock(region).acquire)
    assert_owner_died(region)


def test_an_owner_with_an_attachment_of_its_own_is_killed(region: mshare.Region) -> None:
    def hold() -> None:
        with mshare.attach("locks", addr=mshare.ANYWHERE) as other:
            mshare.Lock(other).acquire()  # the object is dropped and the region closed: the memory stays mapped

    killed(hold)
    assert_owner_died(region)


def test_an_owner_executes_another_program(region: mshare.Region) -> None:
    def execute() -> None:
        mshare.Lock(region).acquire()
        os.execv(sys.executable, [sys.executable, "-c", "pass"])

    assert in_child(execute).status == 0
    assert_owner_died(region)


def test_an_owner_is_a_thread_that_ends(region: mshare.Region) -> None:
    lock = mshare.Lock(region)  # an object that its thread drops while it holds the lock keeps the memory mapped
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert_owner_died(region)


def test_a_process_that_waits_is_woken_by_the_kill(region: mshare.Region) -> None:
    reader, writer = os.pipe()
    owner = os.fork()
    if not owner:
        mshare.Lock(region).acquire()
        os.write(writer, b"x")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    killer = threading.Timer(0.1, os.kill, [owner, signal.SIGKILL])
    killer.start()
    assert_owner_died(region)
    killer.join()
    os.waitpid(owner, 0)
    os.close(reader)
    os.close(writer)


def test_a_dead_reader_does_not_count_and_permits_come_back(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, counting.RWLOCK, readers=counting.READERS)
    killed(lambda: lock.read().__enter__())
    with lock.write(timeout=100):
        pass
    semaphore = mshare.Semaphore(region, counting.DATA, permits=1)
    killed(semaphore.acquire)
    assert semaphore.acquire(timeout=100)
    semaphore.release()


def test_an_event_wakes_another_process(region: mshare.Region) -> None:
    event = mshare.Event(region, counting.COUNTER)
    pid = os.fork()
    if not pid:
        os._exit(0 if event.wait(timeout=100) else 1)
    event.set()
    assert os.waitpid(pid, 0)[1] == 0


def test_no_increment_is_lost_or_doubled_when_processes_are_killed(region: mshare.Region) -> None:
    result = counting.run(region, processes=7, seconds=10, kill_every_s=0.5)
    assert result.value == result.journal
    assert result.kills
