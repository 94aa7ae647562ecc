"""The time of locks between processes: `python -m benchmarks.locks [--rounds 7]`, or `make bench-locks`.

Alone: one process locks and unlocks; processor time. Each round has a process of its own, because the figures of one
process are all shifted by where its memory happens to lie. Together: processes compete for a second and do little under
the lock; real time. All kinds take turns in each round, and figures are medians over the rounds. The rejected designs
of docs/decisions/0033-locks.md are measured alone. May depend on: machine, output, mshare, filelock.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import mmap
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import filelock

import mshare

from . import machine, output

WITH, CALLS = "`with`", "`acquire` and `release`"
OURS, THEIRS, FILE = "mshare.Lock", "multiprocessing.Lock", "filelock.FileLock"
BATCH = 1000
TURNS = 21
"""Batches of each kind in one process."""
CROWDS = (1, 8, 64)
TARGET = 2.0
Maker = Callable[[], AbstractContextManager[Any]]
COUNT, HANDOVERS, LAST = range(3)


@dataclass(frozen=True)
class Alone:
    """A lock and an unlock without competition: a median."""

    kind: str
    way: str
    nanoseconds: float


@dataclass(frozen=True)
class Together:
    """Processes that compete: medians per second."""

    kind: str
    processes: int
    locks: float
    handovers: float


def _with(lock: AbstractContextManager[Any]) -> Callable[[], None]:
    def batch() -> None:
        for _ in range(BATCH):
            with lock:
                pass

    return batch


def _calls(acquire: Callable[[], object], release: Callable[[], object]) -> Callable[[], None]:
    def batch() -> None:
        for _ in range(BATCH):
            acquire()
            release()

    return batch


def _ofd(path: Path) -> Callable[[], None]:
    file = path.open("w+")
    lock, unlock = (struct.pack("@hhqqi4x", kind, 0, 0, 1, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))

    def batch() -> None:
        for _ in range(BATCH):
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, lock)
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, unlock)

    return batch


def _futex_pi(memory: mmap.mmap) -> Callable[[], None]:
    call, word = ctypes.CDLL(None).syscall, ctypes.byref(ctypes.c_uint32.from_buffer(memory, 128))
    number, lock, unlock, none = ctypes.c_long(202), ctypes.c_int(6), ctypes.c_int(7), ctypes.c_long(0)

    def batch() -> None:
        for _ in range(BATCH):
            call(number, word, lock, none, none)
            call(number, word, unlock, none, none)

    return batch


def _bare_mutex() -> Callable[[], None]:
    libc, mutex = ctypes.PyDLL(None), (ctypes.c_uint64 * 5)(0, 0, 0x90, 0, 0)
    lock, unlock, at = libc.pthread_mutex_trylock, libc.pthread_mutex_unlock, ctypes.byref(mutex)

    def batch() -> None:
        for _ in range(BATCH):
            lock(at)
            unlock(at)

    return batch


def _libatomic(memory: mmap.mmap) -> Callable[[], None] | None:
    try:
        add = ctypes.PyDLL("libatomic.so.1").__atomic_fetch_add_8
    except OSError:
        return None
    word, one, order = ctypes.byref(ctypes.c_uint64.from_buffer(memory, 192)), ctypes.c_uint64(1), ctypes.c_int(5)

    def batch() -> None:
        for _ in range(BATCH):
            add(word, one, order)

    return batch


def alone_once(region: mshare.Region, directory: Path) -> list[Alone]:
    """Measure every kind in this process, in turns."""
    ours, theirs = mshare.Lock(region, 0), multiprocessing.Lock()
    file = filelock.FileLock(directory / "alone.lock")
    counter, memory = mshare.Counter(region, 256), mmap.mmap(-1, 4096)
    add = counter.add
    rwlock = mshare.RWLock(region, 1024, readers=8)

    def adding() -> None:
        for _ in range(BATCH):
            add()

    def reading() -> None:
        for _ in range(BATCH):
            with rwlock.read():
                pass

    batches: dict[tuple[str, str], Callable[[], None] | None] = {
        (THEIRS, WITH): _with(theirs),
        (OURS, WITH): _with(ours),
        (FILE, WITH): _with(file),
        (THEIRS, CALLS): _calls(theirs.acquire, theirs.release),
        (OURS, CALLS): _calls(ours.acquire, ours.release),
        (FILE, CALLS): _calls(file.acquire, file.release),
        ("bare robust mutex through ctypes", CALLS): _bare_mutex(),
        ("OFD lock through fcntl", CALLS): _ofd(directory / "ofd"),
        ("FUTEX_LOCK_PI through ctypes", CALLS): _futex_pi(memory),
        ("mshare.RWLock", "`with lock.read()`"): reading,
        ("mshare.Counter", "`add`"): adding,
        ("libatomic's fetch-and-add through ctypes", "a call"): _libatomic(memory),
    }
    there = {name: batch for name, batch in batches.items() if batch is not None}
    times: dict[tuple[str, str], list[float]] = {name: [] for name in there}
    for _ in range(TURNS):
        for name, batch in there.items():
            start = time.thread_time_ns()
            batch()
            times[name].append((time.thread_time_ns() - start) / BATCH)
    return [Alone(*name, median(taken)) for name, taken in times.items()]


def alone(rounds: int) -> list[list[Alone]]:
    """Measure every kind in `rounds` new processes, one after the other."""
    command = [sys.executable, "-m", "benchmarks.locks", "--once"]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(rounds)]
    return [[Alone(**one) for one in json.loads(text)] for text in outputs]


def over_rounds(measured: Sequence[Sequence[Alone]]) -> list[Alone]:
    """Return the medians over the rounds. Pure."""
    return [
        Alone(same[0].kind, same[0].way, median(one.nanoseconds for one in same))
        for same in zip(*measured, strict=True)
    ]


def ratios(measured: Sequence[Sequence[Alone]]) -> list[float]:
    """Return, in order, how many times as long as theirs our `with` block takes in each round. Pure."""
    times = [{one.kind: one.nanoseconds for one in each if one.way == WITH} for each in measured]
    return sorted(each[OURS] / each[THEIRS] for each in times)


def _compete(lock: AbstractContextManager[Any], words: memoryview, start: Any, end: Any) -> None:
    me = os.getpid()
    start.wait()
    while not end.is_set():
        for _ in range(10):
            with lock:
                words[COUNT] += 1
                if words[LAST] != me:
                    words[LAST] = me
                    words[HANDOVERS] += 1


def _crowd(make: Maker, processes: int, region: mshare.Region) -> tuple[float, float]:
    """Return the locks and the changes of owner per second."""
    words = region.buf[512:536].cast("Q")
    words[COUNT] = words[HANDOVERS] = words[LAST] = 0
    start, end = mshare.Event(region, 640), mshare.Event(region, 704)
    start.clear()
    end.clear()
    pids = []
    for _ in range(processes):
        pids.append(os.fork())
        if not pids[-1]:
            try:
                _compete(make(), words, start, end)
            finally:
                os._exit(0)
    begin = time.perf_counter()
    start.set()
    over = threading.Event()
    over.wait(1.0)
    seconds, locks, handovers = time.perf_counter() - begin, words[COUNT], words[HANDOVERS]
    end.set()
    for pid in pids:
        os.waitpid(pid, 0)
    words.release()
    return locks / seconds, handovers / seconds


def together(region: mshare.Region, directory: Path, rounds: int) -> list[Together]:
    """Measure the three kinds with all numbers of processes, in turns."""
    theirs = multiprocessing.Lock()
    makers: dict[str, Maker] = {
        OURS: lambda: mshare.Lock(region, 0),
        THEIRS: lambda: theirs,
        FILE: lambda: filelock.FileLock(directory / "crowd.lock"),
    }
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for processes in CROWDS:
            for kind, make in makers.items():
                taken.setdefault((kind, processes), []).append(_crowd(make, processes, region))
    return [
        Together(*name, median(locks for locks, _ in rates), median(handovers for _, handovers in rates))
        for name, rates in taken.items()
    ]


def markdown(
    measured: Sequence[Sequence[Alone]], crowds: Sequence[Together], found: Mapping[str, Any], rounds: int
) -> str:
    """Return the report. Pure."""
    single, each = over_rounds(measured), ratios(measured)
    ratio = {one.way: one.nanoseconds for one in single if one.kind == THEIRS}
    lines = [
        "# What a lock costs",
        "",
        f"`make bench-locks`: medians over {rounds} rounds, in which all kinds take turns.",
        "",
        machine.line(found),
        f"filelock {found['filelock']}, load average {found['load_1min']:.1f}.",
        "",
        "## One process",
        "",
        "Processor time of one lock and one unlock that nobody competes for. Each round is a new process.",
        "",
        f"| lock | way | time | of {THEIRS}'s |",
        "|---|---|---:|---:|",
    ]
    for one in single:
        base = ratio.get(one.way)
        times = "" if base is None else f"{one.nanoseconds / base:.1f}"
        lines.append(f"| {one.kind} | {one.way} | {one.nanoseconds:,.0f} ns | {times} |")
    reached = median(each)
    lines += [
        "",
        f"Target: at most {TARGET:.0f} times {THEIRS}, in a `with` block: {reached:.1f} "
        f"({each[0]:.1f} to {each[-1]:.1f} in single rounds), {'met' if reached <= TARGET else 'not met'}.",
        "",
        "## Processes that compete",
        "",
        "Each process counts under the lock, again and again. A hand-over is a lock whose last owner was another",
        "process.",
        "",
        f"| processes | lock | locks per second | hand-overs per second | time of a lock | locks, of {THEIRS}'s |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    base_of = {crowd.processes: crowd.locks for crowd in crowds if crowd.kind == THEIRS}
    for crowd in crowds:
        lines.append(
            f"| {crowd.processes} | {crowd.kind} | {crowd.locks:,.0f} | {crowd.handovers:,.0f} "
            f"| {1e6 / max(crowd.locks, 1e-9):,.1f} µs | {crowd.locks / base_of[crowd.processes]:.2f} |"
        )
    return "\n".join([*lines, "", _WHY, ""])


_WHY = """\
`multiprocessing.Lock` is C, and its `acquire` and `release` are C functions that Python calls without a frame of its
own. Its `with` statement goes through two functions of Python. mshare has no C of its own: a lock is two functions of
Python and two calls through ctypes, and each of these calls takes longer than `acquire` and `release` of
`multiprocessing.Lock` together. The row of the bare mutex is the part that no Python code around it can save. Besides,
mshare compares the mutex's kind and its list pointers and stores the owner.

`multiprocessing.Lock` and `filelock` do not tell of a death. A dead owner of `multiprocessing.Lock` blocks all others
forever. `filelock` looks again every 50 ms when the lock is taken.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each kind")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    output.add_options(parser)
    options = parser.parse_args()
    found = machine.facts(("mshare", "filelock"))
    with TemporaryDirectory(prefix="mshare-bench-") as name, mshare.create_anonymous(4096) as region:
        if options.once:
            json.dump([asdict(one) for one in alone_once(region, Path(name))], sys.stdout)
            return
        measured = alone(options.rounds)
        crowds = together(region, Path(name), options.rounds)
    document = {
        "machine": found,
        "rounds": options.rounds,
        "alone": [[asdict(one) for one in each] for each in measured],
        "together": [asdict(crowd) for crowd in crowds],
    }
    output.write(options, document, markdown(measured, crowds, found, options.rounds))


if __name__ == "__main__":
    main()
