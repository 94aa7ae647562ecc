"""RWLock, Semaphore, Event and Counter in a region: deaths at any point, limits, and a model for the counter."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mshare
from mshare.testing.processes import in_child
from tests.helpers import counting
from tests.helpers.worlds import die

SIZE = 8192


@pytest.fixture
def region(world: Path) -> Iterator[mshare.Region]:
    """A region of two pages."""
    with mshare.create("r", SIZE, backend="shm") as made:
        yield made
    mshare.unlink("r")


def killed(function: Callable[[], object]) -> None:
    """Run `function`, which kills its process, in a child."""
    assert in_child(function).status == -signal.SIGKILL


def outcome(function: Callable[[], object]) -> str:
    """Return the class of the error that `function` raises in another process, "" if it raises none."""

    def attempt() -> str:
        try:
            function()
        except mshare.MshareError as error:
            return type(error).__name__
        return ""

    return str(in_child(attempt).value)


def enter(context: Callable[[], object]) -> Callable[[], None]:
    """Return a function that enters and leaves a `with` block."""

    def run() -> None:
        with context():  # type: ignore[attr-defined]
            pass

    return run


def test_readers_share_and_writers_are_alone(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, readers=3)
    read, write = enter(lambda: lock.read(timeout=0.01)), enter(lambda: lock.write(timeout=0.01))
    with lock.read():
        assert outcome(read) == ""
        assert outcome(write) == "LockTimeoutError"
    with lock.write():
        assert outcome(read) == "LockTimeoutError"
        assert outcome(write) == "LockTimeoutError"
    assert outcome(write) == ""


def test_a_further_reader_waits(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, readers=1)
    read = enter(lambda: lock.read(timeout=0.01))
    with lock.read():
        assert outcome(read) == "LockTimeoutError"
    assert outcome(read) == ""


def test_dead_readers_are_not_counted(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, readers=2)

    def read_and_die() -> None:
        with lock.read():
            die()

    for _ in range(5):
        killed(read_and_die)
    with lock.write(timeout=50):
        pass
    for _ in range(2):
        killed(read_and_die)
    with lock.read(timeout=50):
        assert outcome(enter(lambda: lock.read(timeout=50))) == ""


def test_a_waiting_writer_goes_on_when_the_reader_is_killed(region: mshare.Region) -> None:
    lock = mshare.RWLock(region)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with lock.read():
            os.write(writer, b"x")
            signal.pause()
    assert os.read(reader, 1) == b"x"
    killer = threading.Timer(0.01, os.kill, [pid, signal.SIGKILL])
    killer.start()
    with lock.write(timeout=50):
        pass
    killer.join()
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)


def test_a_dead_writer_is_told_until_a_repair(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, 128)

    def write_and_die() -> None:
        with lock.write():
            die()

    killed(write_and_die)
    assert outcome(enter(lock.read)) == outcome(enter(lock.write)) == "OwnerDiedError"
    with pytest.raises(KeyError), lock.recover():
        raise KeyError
    with lock.recover() as died:
        assert died is not None
        assert (died.region, died.offset) == ("r", 128)
    with lock.recover() as died:
        assert died is None
    with pytest.raises(KeyError), lock.write():
        raise KeyError
    with pytest.raises(KeyError), lock.read():
        raise KeyError
    assert outcome(enter(lambda: lock.write(timeout=0))) == ""


def test_a_thread_cannot_wait_for_itself(region: mshare.Region) -> None:
    lock, again = mshare.RWLock(region), mshare.RWLock(region)
    for outer in (lock.read, lock.write):
        with outer():
            for inner in (lock.read, again.write, again.read, lock.recover):
                with pytest.raises(mshare.AlreadyOwnerError), inner():
                    raise AssertionError
            assert outcome(enter(lambda: lock.write(timeout=0))) == "LockTimeoutError"
    assert outcome(enter(lambda: lock.write(timeout=0))) == ""


def test_readers_and_writers_see_whole_data(region: mshare.Region) -> None:
    lock = mshare.RWLock(region, readers=4)
    words = region.buf[4096:4112].cast("Q")
    pids = []
    for number in range(6):
        pids.append(os.fork())
        if pids[-1]:
            continue
        status = 1
        try:
            for _ in range(199):
                if number < 2:
                    with lock.write():
                        words[0] += 1
                        words[1] += 1
                else:
                    with lock.read():
                        assert words[0] == words[1]
            status = 0
        finally:
            os._exit(status)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 6
    assert words[0] == 2 * 199
    words.release()


def test_permits_come_back_when_their_holder_dies(region: mshare.Region) -> None:
    semaphore = mshare.Semaphore(region, permits=2)
    killed(lambda: (semaphore.acquire(), semaphore.acquire(), die()))
    with semaphore, semaphore:
        assert not in_child(lambda: semaphore.acquire(timeout=0.01)).value
        with pytest.raises(mshare.AlreadyOwnerError):
            semaphore.acquire()
    assert in_child(lambda: semaphore.acquire(timeout=0)).value
    assert semaphore.acquire(timeout=50)
    semaphore.release()
    with pytest.raises(mshare.NotOwnerError):
        semaphore.release()


def test_a_fork_gives_the_child_no_permit(region: mshare.Region) -> None:
    semaphore = mshare.Semaphore(region, permits=1)
    with semaphore:
        assert outcome(semaphore.release) == "NotOwnerError"
        assert not in_child(lambda: semaphore.acquire(timeout=0)).value
    assert in_child(lambda: semaphore.acquire(timeout=0)).value


def test_no_more_threads_than_permits_are_inside(region: mshare.Region) -> None:
    semaphore = mshare.Semaphore(region, permits=3)
    inside, most = [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(99):
            with semaphore:
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [0]
    assert most[0] <= 3


def test_an_event_wakes_all_that_wait(region: mshare.Region) -> None:
    event = mshare.Event(region, 64)
    assert not event.wait(timeout=0.01)
    pids = []
    for _ in range(3):
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(0 if mshare.Event(region, 64).wait(timeout=50) else 1)
    threads = [threading.Thread(target=event.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    event.set()
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 3
    for thread in threads:
        thread.join()
    assert event.is_set()
    event.clear()
    assert not event.is_set()


def test_a_wait_ends_although_the_process_died_between_store_and_wake(region: mshare.Region) -> None:
    event = mshare.Event(region)
    done = []
    thread = threading.Thread(target=lambda: done.append(event.wait()))
    thread.start()
    event._flag[2] = 1
    thread.join()
    assert done == [True]


def test_a_counter_is_the_sum_of_what_all_have_added(region: mshare.Region) -> None:
    counter = mshare.Counter(region, 64)
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if not pids[-1]:
            for _ in range(499):
                counter.add()
            os._exit(0)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert counter.value == 4 * 499


def test_a_counter_survives_a_death_inside_a_change(region: mshare.Region) -> None:
    counter = mshare.Counter(region)
    killed(lambda: counter._change(change=lambda _: die()))
    assert counter.add(3) == 3
    killed(lambda: (counter.add(2), die()))
    assert counter.value == 5


WORD = st.one_of(
    st.integers(-3, 3),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1]),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), WORD),
            st.tuples(st.just("set"), WORD),
            st.tuples(st.just("swap"), WORD, WORD),
            st.tuples(st.just("swap same"), WORD),
        )
    )
)
def test_a_counter_is_a_number_of_64_bits(region: mshare.Region, steps: list[tuple[str, int]]) -> None:
    region.buf[:128] = bytes(128)
    counters, model = [mshare.Counter(region), mshare.Counter(region)], 0
    for turn, (step, *numbers) in enumerate(steps):
        counter = counters[turn % 2]
        wanted = {
            "add": model + numbers[0],
            "set": numbers[0],
            "swap": numbers[-1] if numbers[0] == model else model,
            "swap same": numbers[0],
        }[step]
        calls: dict[str, Callable[[], object]] = {
            "add": partial(counter.add, numbers[0]),
            "set": partial(counter.set, numbers[0]),
            "swap": partial(counter.compare_and_swap, numbers[0], numbers[-1]),
            "swap same": partial(counter.compare_and_swap, model, numbers[0]),
        }
        call = calls[step]
        if -(1 << 63) <= wanted < 1 << 63:
            answer = {"add": wanted, "set": model, "swap": numbers[0] == model, "swap same": True}[step]
            assert call() == answer
            model = wanted
        else:
            with pytest.raises(mshare.InvalidArgumentError):
                call()
        assert [each.value for each in counters] == [model, model]


MAKERS: dict[str, Callable[[mshare.Region], object]] = {
    "Lock": mshare.Lock,
    "RWLock of 2": lambda r: mshare.RWLock(r, readers=2),
    "RWLock of 3": lambda r: mshare.RWLock(r, readers=3),
    "Semaphore of 2": lambda r: mshare.Semaphore(r, permits=2),
    "Semaphore of 3": lambda r: mshare.Semaphore(r, permits=3),
    "Event": mshare.Event,
    "Counter": mshare.Counter,
}


@pytest.mark.parametrize("first", MAKERS)
def test_a_place_is_of_one_kind(region: mshare.Region, first: str) -> None:
    made = MAKERS[first](region)
    before = bytes(region.buf)
    for name, make in MAKERS.items():
        if name == first:
            make(region)
        else:
            with pytest.raises(mshare.NotALockError):
                make(region)
    assert bytes(region.buf) == before
    assert "byte 0 of region 'r'" in repr(made)
    with pytest.raises(TypeError, match="same offset"):
        pickle.dumps(made)


def test_sizes_and_numbers(region: mshare.Region) -> None:
    for wrong in (0, 1024):
        with pytest.raises(mshare.InvalidArgumentError):
            mshare.RWLock(region, readers=wrong)
        with pytest.raises(mshare.InvalidArgumentError):
            mshare.Semaphore(region, permits=wrong)
    assert mshare.RWLock.size() == mshare.RWLock.size(64) == 64 * 66
    assert mshare.Semaphore.size(3) == 64 * 4
    mshare.RWLock(region, SIZE - mshare.RWLock.size(7), readers=7)
    mshare.Semaphore(region, 0, permits=5)
    with pytest.raises(mshare.InvalidSizeError):
        mshare.Semaphore(region, SIZE - 64 * 5, permits=5)
    with mshare.attach("r", readonly=True) as readonly:
        for make in MAKERS.values():
            with pytest.raises(mshare.ReadOnlyMappingError):
                make(readonly)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(
            st.integers(0, 31),
            st.one_of(
                st.sampled_from([0, 1, 0x90, 0x80, 1 << 63, (1 << 64) - 1, 1 << 30, 0x7FFFFFFF]),
                st.integers(0, (1 << 64) - 1),
            ),
        ),
        max_size=4,
    ),
    held=st.booleans(),
    which=st.sampled_from(["rwlock", "semaphore", "event", "counter"]),
)
def test_other_bytes_crash_nobody(region: mshare.Region, writes: list[tuple[int, int]], held: bool, which: str) -> None:
    region.buf[:256] = bytes(256)

    def use() -> None:
        words = region.buf[:256].cast("Q")

        def overwrite() -> None:
            for index, value in writes:
                words[index] = value

        def late(wait: Callable[[], object]) -> None:
            with suppress(mshare.MshareError):
                wait()

        with suppress(mshare.MshareError), ExitStack() as stack:
            if which == "rwlock":
                lock = mshare.RWLock(region, readers=2)
                if held:
                    stack.enter_context(lock.read())
                overwrite()
                for attempt in (lock.read, lock.write, lock.recover):
                    late(enter(lambda a=attempt: a(timeout=0.001)))  # type: ignore[misc]
            elif which == "semaphore":
                semaphore = mshare.Semaphore(region, permits=3)
                if held:
                    semaphore.acquire()
                overwrite()
                for _ in range(4):
                    late(lambda: semaphore.acquire(timeout=0.001))
                for _ in range(4):
                    late(semaphore.release)
            elif which == "event":
                event = mshare.Event(region)
                overwrite()
                late(lambda: event.wait(timeout=0.001))
                late(event.set)
                late(event.clear)
            else:
                counter = mshare.Counter(region)
                words[8] = 0
                for index, value in writes:
                    if index != 8:  # a mutex that seems to belong to another thread waits forever
                        words[index] = value
                late(counter.add)
                late(lambda: counter.compare_and_swap(counter.value, 1))

    assert in_child(use).status == 0


def test_no_increment_is_lost_or_doubled_when_processes_are_killed(region: mshare.Region) -> None:
    """The stress test of tests/stress/test_locks.py, a few seconds of it."""
    result = counting.run(region, processes=32, seconds=4, kill_every_s=0.02)
    assert result.value == result.journal
    assert result.kills
