"""Threads, forks in threads and garbage collections that run in the middle of our calls."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._core import entry, mapping
from mshare._core.geometry import PMD, WINDOW
from mshare._core.linux import locks
from mshare.testing.conformance import files
from mshare.testing.processes import LIMIT_S, in_child

SIZE = 3 * 4096


def mapped_names() -> list[str]:
    """Return the files that this process maps in mshare's window, from /proc."""
    lines = [line.split(None, 5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return [line[5] for line in lines if WINDOW[0] <= int(line[0].partition("-")[0], 16) < WINDOW[1]]


def in_thread(function: Callable[[], Any]) -> Callable[[], None]:
    """Start `function` in a thread. Return a function that waits for the end and raises the thread's exception."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> None:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        if problems:
            raise problems[0]

    return join


def test_threads_attach_and_close_at_once(world: Path) -> None:
    mshare.create("r", SIZE).close()
    before = os.listdir("/proc/self/fd")

    def churn(slot: int) -> None:
        for turn in range(211):
            with mshare.attach("r", readonly=False) as one, mshare.attach("r") as two:
                assert one.addr == two.addr
                one.buf[slot] = turn
                assert two.buf[slot] == turn

    joins = [in_thread(partial(churn, slot)) for slot in range(7)]
    for join in joins:
        join()
    assert mapped_names() == []
    assert mshare.regions()[0].orphan
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_threads_share_one_region_object(world: Path) -> None:
    shared = mshare.create("r", SIZE)

    def use() -> None:
        for _ in range(307):
            try:
                with shared.buf as view:
                    view[0] = 1
            except mshare.RegionClosedError:
                return

    joins = [in_thread(use) for _ in range(3)]
    while not shared.closed:
        try:
            shared.close()
        except mshare.ViewsAliveError:
            continue
    for join in joins:
        join()
    assert mapped_names() == []


@pytest.mark.parametrize("operation", ["attach", "create", "gc", "mshare_unlink", "regions", "unlink"])
def test_a_fork_in_the_middle_of_another_threads_call_inherits_no_descriptor(
    world: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The child lives on. Its inherited descriptors must not keep the region attached or locked."""
    mshare.create("r", SIZE).close()
    inside, forked = threading.Event(), threading.Event()
    caller = threading.get_ident()

    def pause(original: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            if threading.get_ident() != caller:
                inside.set()
                assert forked.wait(LIMIT_S)
            return result

        return paused

    monkeypatch.setattr(entry, "read_record", pause(entry.read_record))
    monkeypatch.setattr(locks, "is_locked", pause(locks.is_locked))
    monkeypatch.setattr(locks, "try_write_lock", pause(locks.try_write_lock))
    monkeypatch.setattr(time, "time_ns", pause(time.time_ns))
    calls: dict[str, Callable[[], Any]] = {
        "attach": lambda: mshare.attach("r").close(),
        "create": lambda: mshare.create("new", SIZE).close(),
        "gc": mshare.gc,
        "mshare_unlink": lambda: mshare.mshare_unlink("r"),
        "regions": mshare.regions,
        "unlink": lambda: mshare.unlink("r"),
    }
    join = in_thread(calls[operation])
    assert inside.wait(LIMIT_S)
    before = {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in os.listdir("/proc/self/fd") if int(fd) < 3}

    def inherited() -> list[str]:
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = str(Path(f"/proc/self/fd/{fd}").readlink())
            except FileNotFoundError:
                continue
            if str(world) in target and target not in before:
                found.append(target)
        return found

    try:
        assert in_child(inherited).value == []
    finally:
        forked.set()
        join()


def test_a_fork_while_another_thread_creates_inherits_no_mapping(world: Path) -> None:
    inside, forked = threading.Event(), threading.Event()

    def fill(view: memoryview) -> None:
        view[0] = 7
        inside.set()
        assert forked.wait(LIMIT_S)

    join = in_thread(lambda: mshare.create("new", SIZE, fill=fill).close())
    assert inside.wait(LIMIT_S)
    try:
        assert len(mapped_names()) == 1
        assert in_child(mapped_names).value == []
    finally:
        forked.set()
        join()
    assert mshare.regions()[0].orphan
    with mshare.attach("new") as region:
        assert region.buf[0] == 7


def test_a_child_of_a_threaded_process_can_use_the_library(world: Path) -> None:
    """The child works, with any locks that other threads hold at the moment of the fork."""
    mshare.create("r", SIZE).close()
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            mshare.attach("r").close()

    def use() -> int:
        with mshare.attach("r", addr=mshare.ANYWHERE) as elsewhere:
            elsewhere.buf[1] = 1
        mshare.create(f"child-{os.getpid()}", SIZE).close()
        mshare.unlink(f"child-{os.getpid()}")
        return len(mshare.regions())

    joins = [in_thread(churn) for _ in range(2)]
    try:
        for _ in range(31):
            assert in_child(use).value == 1
    finally:
        stop.set()
        for join in joins:
            join()


def test_an_interrupt_while_a_fork_waits_for_another_thread_leaves_the_child_able_to_work(world: Path) -> None:
    """The interpreter reports an exception of the hook, and forks nevertheless."""
    mshare.create("r", SIZE).close()

    def scenario() -> int:
        forking, begin = os.pipe()
        held, interrupted, forked = threading.Event(), threading.Event(), threading.Event()

        def handler(*_: object) -> None:
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt

        def hold() -> None:
            with mapping.lock:
                held.set()
                os.read(forking, 1)
                while not interrupted.wait(0.01):
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                assert forked.wait(LIMIT_S)

        sys.unraisablehook = lambda _: None
        signal.signal(signal.SIGUSR1, handler)
        join = in_thread(hold)
        assert held.wait(LIMIT_S)
        os.register_at_fork(before=partial(os.write, begin, b"!"))  # runs before the library's: the last comes first
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            mshare.attach("r").close()
            os._exit(0)
        forked.set()
        join()
        mshare.attach("r").close()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(scenario).value == 0


def test_a_collection_between_finding_and_holding_a_mapping(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable `Region` in a cycle is collected at the worst moment. The new region must stay mapped."""
    cycle: list[Any] = [mshare.create("r", SIZE)]
    cycle.append(cycle)
    original = mapping.Mapping.hold

    def collect_first(self: mapping.Mapping, owner: mapping.Owner) -> bool:
        gc.collect()
        return original(self, owner)

    gc.disable()
    try:
        del cycle
        monkeypatch.setattr(mapping.Mapping, "hold", collect_first)
        with mshare.attach("r") as again:
            assert len(mapped_names()) == 1
            again.buf[0] = 1
    finally:
        gc.enable()
    assert mapped_names() == []


@pytest.mark.parametrize("size", [SIZE, PMD])
def test_a_create_that_loses_at_the_last_moment_keeps_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    mshare.create("r", SIZE).close()
    monkeypatch.setattr("mshare._core.names.refuse_existing", lambda _: None)
    with pytest.raises(mshare.RegionExistsError) as held:
        mshare.create("r", size)
    assert mapped_names() == []  # while the error and all its frames still exist
    assert [path.name for path in files()] == ["r"]
    assert held.value.errno
