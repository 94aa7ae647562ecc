"""A lock in a region: death of its owner at any point, threads, forks, signals, and other bytes in its place."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mshare
from mshare.sync import lock as lock_module
from mshare.sync import mutex as mutex_module
from mshare.testing.processes import in_child
from tests.helpers.worlds import die, needs_root

SIZE = 4096


@pytest.fixture
def region(world: Path) -> Iterator[mshare.Region]:
    """A region of one page."""
    with mshare.create("r", SIZE, backend="shm") as made:
        yield made
    mshare.unlink("r")


def owned_by_a_dead(lock: mshare.Lock) -> int:
    """Return the process that died while it held the lock."""
    pids = mshare.create_anonymous(SIZE)

    def hold() -> None:
        lock.acquire()
        pids.buf[:8] = struct.pack("Q", os.getpid())
        die()

    assert in_child(hold).status == -signal.SIGKILL
    return int(struct.unpack("Q", pids.buf[:8])[0])


def free_elsewhere(lock: mshare.Lock) -> bool:
    """Tell whether another process gets the lock at once."""

    def attempt() -> bool:
        return lock.acquire(timeout=0)

    # The child ends with the lock; what it leaves is repaired.
    free = bool(in_child(attempt).value)
    with lock.recover(timeout=0 if free else None):
        return free


def test_the_next_process_learns_who_died(region: mshare.Region) -> None:
    lock = mshare.Lock(region, 64)
    before = time.time()
    pid = owned_by_a_dead(lock)
    for _ in range(2):  # it stays so until a repair, for everybody
        with pytest.raises(mshare.OwnerDiedError, match="recover") as caught, lock:
            raise AssertionError
    died = caught.value
    assert (died.errno, died.pid, died.region, died.offset) == (errno.EOWNERDEAD, pid, "r", 64)
    assert before - 1 < died.started < time.time() + 1
    assert before <= died.noticed <= time.time()
    assert vars(pickle.loads(pickle.dumps(died))) == vars(died)
    with lock.recover() as told:
        assert told is not None
        assert (told.pid, told.started, told.noticed) == (died.pid, died.started, died.noticed)
    with lock.recover() as told:
        assert told is None
    with lock:
        pass


PROGRAM = """
import sys, mshare
region = mshare.attach("r", addr=mshare.ANYWHERE)
lock = mshare.Lock(region, 64)
with lock:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_programs_that_have_nothing_in_common(backend: str) -> None:
    """On each backend, at two addresses."""
    with mshare.create("r", SIZE, backend=backend) as region:
        lock = mshare.Lock(region, 64)
        program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"held\n"
        assert not lock.acquire(timeout=0.01)
        program.kill()
        with pytest.raises(mshare.OwnerDiedError) as caught:
            lock.acquire(timeout=50)
        assert caught.value.pid == program.pid
        program.wait()
        for pipe in (program.stdin, program.stdout):
            pipe.close()
        with lock.recover() as died:
            assert died is not None
    mshare.unlink("r")


@pytest.mark.parametrize("point", ["before it is told", "after it is done"])
def test_a_death_outside_of_the_block_is_no_damage(region: mshare.Region, point: str) -> None:
    """The mutex is locked in both cases, and the owner's word is not set."""
    lock = mshare.Lock(region)

    def hold() -> None:
        assert lock._take(None)
        if point == "after it is done":
            lock._owner.value = 17
            lock._owner.value = 0
        die()

    assert in_child(hold).status == -signal.SIGKILL
    with lock:
        pass


def test_a_waiting_process_gets_the_word_when_the_owner_is_killed(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    reader, writer = os.pipe()
    owner = os.fork()
    if not owner:
        lock.acquire()
        os.write(writer, b"x")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    waiting = threading.Event()

    def kill() -> None:
        waiting.wait()
        os.kill(owner, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert not lock.acquire(timeout=0.01)
    waiting.set()
    with pytest.raises(mshare.OwnerDiedError, match=f"process {owner} died"):
        lock.acquire(timeout=50)
    os.waitpid(owner, 0)
    killer.join()
    os.close(reader)
    os.close(writer)


def test_a_repair_that_fails_or_dies_leaves_the_repair_to_do(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    pid = owned_by_a_dead(lock)
    with pytest.raises(KeyError), lock.recover():
        raise KeyError

    def repair_and_die() -> None:
        with lock.recover():
            die()

    assert in_child(repair_and_die).status == -signal.SIGKILL
    with lock.recover() as died:
        assert died is not None
        assert died.pid == pid
    with lock.recover() as died:
        assert died is None
    with pytest.raises(KeyError), lock.recover():
        raise KeyError
    with lock:
        pass


def test_of_many_that_recover_at_once_one_repairs(region: mshare.Region) -> None:
    lock, done = mshare.Lock(region), region.buf[128:136].cast("Q")
    for turn in range(3):
        owned_by_a_dead(lock)
        pids = []
        for _ in range(5):
            pids.append(os.fork())
            if not pids[-1]:
                with lock.recover() as died:
                    done[0] += died is not None
                os._exit(0)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 5
        assert done[0] == turn + 1
    done.release()


def test_a_thread_that_ends_with_the_lock_is_a_dead_owner(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    with pytest.raises(mshare.OwnerDiedError) as caught:
        lock.acquire(timeout=50)
    assert caught.value.pid == os.getpid()
    with lock.recover():
        pass


def test_it_excludes_threads(region: mshare.Region) -> None:
    lock, counter = mshare.Lock(region), region.buf[128:136].cast("Q")

    def work() -> None:
        for _ in range(499):
            with lock:
                value = counter[0]
                counter[0] = value + 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter[0] == 5 * 499
    counter.release()


def test_a_forked_child_does_not_own_the_lock(region: mshare.Region) -> None:
    lock = mshare.Lock(region)

    def child() -> tuple[bool, bool]:
        got = lock.acquire(timeout=0)
        with pytest.raises(mshare.NotOwnerError):
            lock.release()
        with pytest.raises(mshare.NotOwnerError):
            lock.__exit__()
        return got, lock._is_mine()

    def parent() -> None:
        with lock:
            assert in_child(child).value == [False, False]
            assert lock._is_mine()
            die()

    assert in_child(parent).status == -signal.SIGKILL
    with pytest.raises(mshare.OwnerDiedError):  # also after a child's attempt to release the lock
        lock.acquire()


def test_a_child_that_leaves_its_parent_s_block_changes_nothing(region: mshare.Region) -> None:
    lock = mshare.Lock(region)

    def parent(recover: bool) -> None:
        child = 0
        try:
            with lock.recover() if recover else lock:
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                    die()
        except mshare.NotOwnerError:
            assert not child
            os._exit(0)

    for recover in (False, True):
        assert in_child(partial(parent, recover)).status == -signal.SIGKILL
        with lock.recover(timeout=50) as died:
            assert died is not None


def test_a_region_with_a_lock_is_not_sealed() -> None:
    with mshare.create_anonymous(SIZE) as made:
        lock = mshare.Lock(made)
        with pytest.raises(mshare.ViewsAliveError):
            made.seal()
        with lock:
            pass
        del lock
        made.seal()


@needs_root
def test_threads_of_two_pid_namespaces_may_have_the_same_id(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    rwlock = mshare.RWLock(region, 1024, readers=3)
    new_pid = 0x20000000

    def first_of_namespace(function: Callable[[], object]) -> int:
        """Run `function` in a process with the id 1. Return the exit status."""

        def run() -> int:
            assert ctypes.CDLL(None).unshare(new_pid) == 0
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    assert os.getpid() == 1
                    function()
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        return int(in_child(run).value)

    def compete() -> None:
        assert not lock.acquire(timeout=0.01)
        for release in (lock.release, lock.__exit__):
            with pytest.raises(mshare.NotOwnerError):
                release()
        with rwlock.read(timeout=1):
            pass
        with pytest.raises(mshare.LockTimeoutError), rwlock.write(timeout=0.01):
            raise AssertionError

    def hold() -> None:
        with lock, rwlock.read():
            pid = os.fork()  # a child of init has no other way into a namespace of its own
            if not pid:
                os._exit(first_of_namespace(compete))
            assert os.waitpid(pid, 0)[1] == 0
            os._exit(17)

    assert first_of_namespace(hold) == 17
    with lock.recover(timeout=50) as died:
        assert died is not None
        assert died.pid == 1


def test_a_thread_that_has_the_lock_is_told(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    with lock:
        for attempt in (lock.acquire, lock.__enter__, lambda: lock.recover().__enter__()):
            with pytest.raises(mshare.AlreadyOwnerError):
                attempt()
        assert not free_elsewhere_while_held(lock)
    assert free_elsewhere(lock)


def free_elsewhere_while_held(lock: mshare.Lock) -> bool:
    return bool(in_child(lambda: lock.acquire(timeout=0)).value)


def test_only_the_owner_releases(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    for release in (lock.release, lock.__exit__):
        with pytest.raises(mshare.NotOwnerError):
            release()
    told = []

    def other() -> None:
        for release in (lock.release, lock.__exit__):
            try:
                release()
            except mshare.NotOwnerError as error:
                told.append(error)

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(told) == 2
        assert not free_elsewhere_while_held(lock)


def test_locks_of_one_thread_are_released_in_any_order(region: mshare.Region) -> None:
    locks = [mshare.Lock(region, 128 * index) for index in range(7)]
    order = random.Random(1)
    for _ in range(20):
        order.shuffle(locks)
        for lock in locks:
            lock.acquire()
        order.shuffle(locks)
        for lock in locks:
            lock.release()
    assert all(free_elsewhere(lock) for lock in locks)


def test_time_ends_a_wait(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    with lock:
        others = []
        threads = [
            threading.Thread(target=lambda s=seconds: others.append(lock.acquire(timeout=s))) for seconds in (0, 0.01)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert others == [False, False]

        def recover() -> str:
            try:
                with lock.recover(timeout=0.01):
                    return "got"
            except TimeoutError as error:
                return type(error).__name__

        assert in_child(recover).value == "LockTimeoutError"
    for wrong in (-1, float("nan"), True):
        with pytest.raises(mshare.InvalidArgumentError, match="timeout"):
            lock.acquire(timeout=wrong)


def test_it_needs_a_writable_region_and_a_place_of_its_own(region: mshare.Region) -> None:
    with mshare.attach("r", readonly=True) as readonly, pytest.raises(mshare.ReadOnlyMappingError):
        mshare.Lock(readonly, 0)
    for offset, error in ((8, mshare.InvalidArgumentError), (-64, mshare.InvalidArgumentError)):
        with pytest.raises(error):
            mshare.Lock(region, offset)
    with pytest.raises(mshare.InvalidSizeError):
        mshare.Lock(region, SIZE - 64)
    with pytest.raises(TypeError):
        mshare.Lock("r", 0)  # type: ignore[arg-type]
    region.buf[256] = 1  # also the first byte of the mutex of a lock at 192
    with pytest.raises(mshare.NotALockError):
        mshare.Lock(region, 256)
    with pytest.raises(mshare.NotALockError):
        mshare.Lock(region, 192)
    assert bytes(region.buf[:SIZE]).count(0) == SIZE - 1
    mshare.Lock(region, SIZE - 128)
    region.close()
    with pytest.raises(mshare.RegionClosedError):
        mshare.Lock(region, 0)


def test_a_lock_keeps_its_region_mapped(region: mshare.Region) -> None:
    lock = mshare.Lock(region)
    region.close()
    with lock:
        pass
    with pytest.raises(mshare.ViewsAliveError):
        mshare.mshare_unlink("r")
    del lock
    with mshare.attach("r") as again, mshare.Lock(again):
        pass


def test_a_lock_that_is_dropped_while_held_stays_held_until_the_end(region: mshare.Region) -> None:
    def drop() -> None:
        with mshare.attach("r", addr=mshare.ANYWHERE) as other:
            lock = mshare.Lock(other)
            lock.acquire()
            del lock
        with mshare.create_anonymous(SIZE) as more, mshare.Lock(more), mshare.Lock(more, 128):
            pass  # the thread's list is used again

    assert in_child(drop).status == 0
    with pytest.raises(mshare.OwnerDiedError):
        mshare.Lock(region).acquire(timeout=50)


class Interrupted(BaseException):
    """Raised by the handler below."""


FILES = {lock_module.__file__, mutex_module.__file__}


def test_an_interrupt_leaves_the_lock_as_before(region: mshare.Region) -> None:
    """Signals come at random times; the handler raises when `acquire` or `__enter__` was interrupted."""
    lock = mshare.Lock(region)
    inside = {"acquire", "__enter__", "_settle", "claim"}
    hits = 0

    def handler(_: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename in FILES and frame.f_code.co_name in inside:
                raise Interrupted
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, handler)
    rng = random.Random(7)
    end = time.monotonic() + 50
    try:
        while hits < 97 and time.monotonic() < end:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(20e-6, 60e-6))
            for _ in range(50):
                try:
                    if rng.random() < 0.5:
                        lock.acquire()
                    else:
                        lock.__enter__()
                except Interrupted:
                    hits += 1
                    assert not lock._is_mine()
                    assert lock._owner.value == 0
                else:
                    lock.release()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits
    assert free_elsewhere(lock)


def test_a_handler_uses_the_lock_in_the_middle_of_its_use(region: mshare.Region) -> None:
    """The handler gets the lock, or is told that its thread has the lock; the interrupted use is as without it."""
    lock, answers = mshare.Lock(region), set()

    def handler(*_: object) -> None:
        try:
            answer: object = lock.acquire(timeout=0)
            lock.release()
        except mshare.AlreadyOwnerError as error:
            answer = type(error).__name__
        answers.add(answer)

    before = signal.signal(signal.SIGALRM, handler)
    end = time.monotonic() + 50
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        while len(answers) < 2 and time.monotonic() < end:
            for _ in range(99):
                with lock:
                    assert lock._owner.value == mutex_module.process.word
                with lock.recover() as died:
                    assert died is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers == {True, "AlreadyOwnerError"}
    assert free_elsewhere(lock)


def test_ctrl_c_ends_a_wait(region: mshare.Region) -> None:
    lock = mshare.Lock(region)

    def wait() -> bool:
        threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
        try:
            lock.acquire()
        except KeyboardInterrupt:
            return not lock._is_mine()
        return False

    with lock:
        assert in_child(wait).value


def quietly(call: Callable[[], object]) -> None:
    with suppress(mshare.MshareError):
        call()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(
            st.integers(0, 15),
            st.one_of(
                st.sampled_from([0, 1, 0x90, 0x80, 0x10, 1 << 63, (1 << 64) - 1, 1 << 30, 0x7FFFFFFF, 0x7FFFFFFE]),
                st.integers(0, (1 << 64) - 1),
            ),
        ),
        max_size=4,
    ),
    held=st.booleans(),
)
def test_other_bytes_in_a_lock_crash_nobody(region: mshare.Region, writes: list[tuple[int, int]], held: bool) -> None:
    region.buf[:128] = bytes(128)

    def use() -> None:
        lock = mshare.Lock(region)
        if held:
            lock.acquire()
        words = region.buf[:128].cast("Q")
        for index, value in writes:
            words[index] = value
        for _ in range(2):
            quietly(lock.release)
            quietly(lambda: lock.acquire(timeout=0.001))
            quietly(lock.__exit__)
        quietly(lambda: lock.recover(timeout=0.001).__enter__())
        quietly(lambda: mshare.Lock(region))

    assert in_child(use).status == 0
