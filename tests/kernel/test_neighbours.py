"""Other users of a client's address space, which have page tables of their own and hear of changes by mmu_notifier.

KVM and devices are such users.  The module in tests/kernel/spy stands in for them; MSHARE_SPY_KO names it.
"""

import contextlib
import ctypes
import os
import pathlib
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.helpers.waiting import eventually

from . import mfs, oracle
from .regions import Regions

HERE = pathlib.Path(__file__).parent
DEVICE = "/dev/mshare_spy"
AT = 0x300000000000
READ, BOTH = mfs.PROT_READ, mfs.PROT_READ | mfs.PROT_WRITE


class Heard(NamedTuple):
    starts: int
    ends: int
    intervals: int
    released: int
    waiting: int


class Spy:
    """Listens to the notifications about a range of a process."""

    def __init__(self, pid: int, start: int = AT, length: int = mfs.UNIT) -> None:
        self.fd = os.open(DEVICE, os.O_RDWR)
        self.tell(f"watch {pid} {start:x} {length:x}")

    def tell(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def heard(self) -> Heard:
        return Heard(*map(int, os.pread(self.fd, 80, 0).split()))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


Spies = Callable[[int], Spy]
"""Spies on the process with that number."""
Clients = Callable[..., mfs.Child]
"""Arguments: a path, and optionally the rights and the process's last action on the address."""


@pytest.fixture(scope="module", autouse=True)
def module() -> Iterator[None]:
    path = os.environ.get("MSHARE_SPY_KO", str(HERE / "spy" / "mshare_spy.ko"))
    subprocess.run(["insmod", path], check=True)
    eventually(lambda: os.path.exists(DEVICE), "no device appeared")
    yield
    subprocess.run(["rmmod", "mshare_spy"], check=True)


@pytest.fixture
def spy() -> Iterator[Spies]:
    made = []

    def watch(pid: int) -> Spy:
        made.append(Spy(pid))
        return made[-1]

    yield watch
    for each in made:
        each.close()


@pytest.fixture
def clients() -> Iterator[Clients]:
    """clients(path, prot): a process that has touched 16 pages of the region at AT, and waits."""
    made = []

    def start(path: str, prot: int = BOTH, function: Callable[[int], None] | None = None) -> mfs.Child:
        def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
            addr = mfs.mmap(os.open(path, os.O_RDWR), mfs.UNIT, prot=prot, addr=AT)
            assert addr == AT
            assert [mfs.peek(addr + page * mfs.PAGE) for page in range(16)] == [0] * 16
            ready()
            wait()
            if function:
                function(addr)

        made.append(mfs.Child(child))
        made[-1].wait_ready()
        return made[-1]

    yield start
    for each in made:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):  # the test has waited for it
            each.kill()


def punch(fd: int) -> None:
    mfs.fallocate(fd, mfs.PUNCH_HOLE, 3 * mfs.PAGE, mfs.PAGE)


def remove(fd: int) -> None:
    addr = mfs.mmap(fd, mfs.UNIT)
    mfs.madvise(addr + 3 * mfs.PAGE, mfs.PAGE, 9)
    mfs.munmap(addr, mfs.UNIT)


CHANGES = {
    "punch": punch,
    "remove": remove,
    "protect none": lambda fd: mfs.protect(fd, 3 * mfs.PAGE, mfs.PAGE, mfs.NONE),
    "protect read": lambda fd: mfs.protect(fd, 3 * mfs.PAGE, mfs.PAGE, mfs.READ),
    "truncate": lambda fd: os.ftruncate(fd, 2 * mfs.PAGE),
    "seal": mfs.seal,
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_attached_process_is_told(region: Regions, clients: Clients, spy: Spies, change: str) -> None:
    """A second MMU must not go on with a page that is gone, or with a right to that page.

    Older versions of the module also passed this test.
    """
    fd = region(16)
    spies = [spy(clients(region.path, prot).pid) for prot in (BOTH, BOTH, READ)]
    before = [each.heard() for each in spies]
    CHANGES[change](fd)
    for each, was in zip(spies, before, strict=True):
        heard = each.heard()
        assert heard.starts > was.starts
        assert heard.intervals > was.intervals
        assert heard.starts == heard.ends


def test_who_listened_first_is_told(region: Regions, spy: Spies) -> None:
    """The listener is there before the process attaches, and after it has attached a second time."""
    fd = region(16)

    def child(ready: mfs.Ready, wait: mfs.Wait) -> None:
        ready()
        wait()
        for _ in range(2):
            mfs.peek(mfs.mmap(fd, mfs.UNIT, addr=AT) + 3 * mfs.PAGE)
            ready()
            wait()
            mfs.munmap(AT, mfs.UNIT)

    one = mfs.Child(child)
    one.wait_ready()
    listener = spy(one.pid)
    for _ in range(2):
        one.proceed()
        one.wait_ready()
        before = listener.heard()
        punch(fd)
        assert listener.heard().intervals > before.intervals
    one.proceed()
    assert one.result() == 0
    assert listener.heard().released == 1


@pytest.mark.parametrize("how", ["munmap", "mremap", "over", "exit", "kill"])
def test_leaving_is_told(region: Regions, clients: Clients, spy: Spies, how: str) -> None:
    region(16)

    def leave(addr: int) -> None:
        if how == "munmap":
            mfs.munmap(addr, mfs.UNIT)
        elif how == "mremap":
            mfs.check(mfs.libc.mremap(addr, mfs.UNIT, mfs.UNIT, 3, addr + 7 * mfs.UNIT), mfs.FAILED)
        elif how == "over":
            flags = mfs.MAP_PRIVATE | mfs.MAP_ANONYMOUS | mfs.MAP_FIXED | mfs.MAP_NORESERVE
            mfs.mmap(-1, mfs.UNIT, flags=flags, addr=addr)
        if how in ("munmap", "mremap", "over"):
            os.kill(os.getpid(), signal.SIGSTOP)

    one = clients(region.path, BOTH, leave)
    listener = spy(one.pid)
    before = listener.heard()
    if how == "kill":
        os.kill(one.pid, signal.SIGKILL)
    else:
        one.proceed()
    if how in ("exit", "kill"):
        eventually(lambda: listener.heard().released, "the listener was not released")
        assert listener.heard().starts == listener.heard().ends
        return
    eventually(lambda: oracle.task_state(one.pid) == "T", "it did not detach")
    heard = listener.heard()
    assert heard.intervals > before.intervals
    assert heard.starts == heard.ends


@pytest.mark.parametrize("order", ["listener", "process", "both"])
def test_the_end_in_any_order(region: Regions, clients: Clients, spy: Spies, order: str) -> None:
    """The listener ends first and the process stays attached, or the process dies first.  Neither waits forever."""
    fd = region(16)
    for _ in range(11):
        one = clients(region.path)
        listeners = [spy(one.pid) for _ in range(2)]
        if order == "listener":
            for each in listeners:
                each.close()
            punch(fd)
            mfs.fallocate(fd, 0, 0, 16 * mfs.PAGE)
            one.kill()
        elif order == "process":
            one.kill()
            punch(fd)
            for each in listeners:
                assert each.heard().released == 1
                each.close()
        else:
            closing = threading.Thread(target=lambda all=listeners: [each.close() for each in all])
            closing.start()
            one.kill()
            closing.join()
        eventually(lambda: mfs.info(fd)["attachments"] == 0, "still attached")
        mfs.fallocate(fd, 0, 0, 16 * mfs.PAGE)


def test_a_child_of_fork_is_told_by_itself(region: Regions, spy: Spies) -> None:
    """The parent's listener hears nothing about the child, and the child is attached nevertheless."""
    fd = region(16)
    addr = mfs.mmap(fd, mfs.UNIT, addr=AT)

    def stores(ready: mfs.Ready, wait: mfs.Wait) -> None:
        mfs.poke(addr + 3 * mfs.PAGE, 5)
        ready()
        wait()
        mfs.poke(addr, 6)

    child = mfs.Child(stores)
    child.wait_ready()
    both = [spy(os.getpid()), spy(child.pid)]
    punch(fd)
    assert all(each.heard().intervals for each in both)
    assert mfs.peek(addr + 3 * mfs.PAGE) == 0
    child.proceed()
    assert child.result() == 0
    assert mfs.peek(addr) == 6
    mfs.munmap(addr, mfs.UNIT)


def test_a_listener_may_sleep(region: Regions, clients: Clients, spy: Spies) -> None:
    """The call that takes a page away returns only after the last listener has released the page."""
    fd = region(16)
    listener = spy(clients(region.path).pid)
    listener.tell("hold")
    other = mfs.Child(lambda ready, wait: punch(fd))
    eventually(lambda: listener.heard().waiting, "the listener was not asked")
    assert os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    listener.tell("go")
    assert other.result() == 0
    assert listener.heard().waiting == 0


def test_a_fault_that_waits_for_a_punch_leaves_the_other_threads_alone(
    region: Regions, clients: Clients, spy: Spies
) -> None:
    """One thread touches a hole while a punch is under way, another maps anonymous memory.

    Failed before: the fault kept the lock of the address space while it waited, and mmap was still waiting after 10 s.
    """
    fd = region(16)
    os.ftruncate(fd, 32 * mfs.PAGE)
    listener = spy(clients(region.path).pid)

    def faulting(ready: mfs.Ready, wait: mfs.Wait) -> None:
        addr = mfs.mmap(fd, mfs.UNIT)
        mfs.peek(addr)
        ids = []

        def touch() -> None:
            ids.append(threading.get_native_id())
            mfs.libc.memset(ctypes.c_void_p(addr + 20 * mfs.PAGE), 1, ctypes.c_size_t(1))  # without Python's lock

        thread = threading.Thread(target=touch)
        wait()
        thread.start()
        eventually(lambda: ids and oracle.task_state(os.getpid(), ids[0]) in ("D", ""), "it did not wait")
        ready()
        length = 3 * mfs.UNIT
        flags = mfs.MAP_PRIVATE | mfs.MAP_ANONYMOUS | mfs.MAP_NORESERVE
        mfs.munmap(mfs.mmap(-1, length, flags=flags), length)
        ready()
        thread.join()

    waiting = mfs.Child(faulting)
    listener.tell("hold")
    other = mfs.Child(lambda ready, wait: punch(fd))
    try:
        eventually(lambda: listener.heard().waiting, "the listener was not asked")
        waiting.proceed()
        waiting.wait_ready()
        mapped = select.select([waiting.ready], [], [], 10)[0]
    finally:
        listener.tell("go")
    assert (waiting.result(), other.result()) == (0, 0)
    assert mapped, "mmap waited for the punch"
