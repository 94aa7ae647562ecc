"""Workers that count under a lock of a region and are killed at random times, with a journal of what each has done.

A worker has a row of the journal, in anonymous shared memory: its process, its intention, and what it has counted.
Under the lock it stores its intention (which turn, and the value to come), then the value, then its turn. A repair
finds the row of the dead process. If the value is the intended one and the turn was not counted, the repair counts the
turn. At the end the value is therefore the sum of all rows, to the last increment. Now and then a worker lets others
run in the middle of its turn, so that many kills find a worker there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import time
import traceback
from typing import NamedTuple

import mshare
from tests.helpers.waiting import eventually

PID, INTENTION, TURNS, ADDED = range(4)
ROW = 4
LOCK, COUNTER, RWLOCK, DATA = 0, 128, 256, 2048
READERS = 8
SIZE = 4096


class Result(NamedTuple):
    """The end of a run, with every worker killed."""

    value: int
    journal: int
    kills: int
    repairs: int


class Worker:
    """One process that counts; also its row of the journal."""

    def __init__(self, region: mshare.Region, journal: memoryview, row: int) -> None:
        self.lock = mshare.Lock(region, LOCK)
        self.counter = mshare.Counter(region, COUNTER)
        self.rwlock = mshare.RWLock(region, RWLOCK, readers=READERS)
        self.words = region.buf[DATA : DATA + 64].cast("Q")  # the value, two equal words, the number of repairs
        self.journal = journal
        self.first = row * ROW
        self.rng = random.Random(row)

    def repair(self, pid: int) -> None:
        """Complete or forget the turn of a dead process. Under the lock."""
        pids = self.journal[PID::ROW].tolist()
        first = (len(pids) - 1 - pids[::-1].index(pid)) * ROW
        turn, value = divmod(self.journal[first + INTENTION], 1 << 32)
        if value == self.words[0] and turn == self.journal[first + TURNS] + 1:
            self.journal[first + TURNS] = turn
        self.words[3] += 1

    def pause(self) -> None:
        if self.rng.random() < 0.1:
            os.sched_yield()

    def count(self) -> None:
        journal, first, words = self.journal, self.first, self.words
        try:
            with self.lock:
                turn, value = journal[first + TURNS] + 1, words[0] + 1
                journal[first + INTENTION] = turn << 32 | value
                self.pause()
                words[0] = value
                self.pause()
                journal[first + TURNS] = turn
        except mshare.OwnerDiedError:
            with self.lock.recover() as died:
                if died is not None:  # else another process was first
                    self.repair(died.pid)

    def read_or_write(self, write: bool) -> None:
        words = self.words
        try:
            if write:
                with self.rwlock.write():
                    assert words[1] == words[2], "two writers, or a death that nobody was told of"
                    words[1] += 1
                    self.pause()
                    words[2] += 1
            else:
                with self.rwlock.read():
                    assert words[1] == words[2], "a reader beside a writer"
        except mshare.OwnerDiedError:
            with self.rwlock.recover() as died:
                if died is not None:
                    words[2] = words[1]

    def work(self) -> None:
        """Count until killed."""
        self.journal[self.first + PID] = os.getpid()
        while True:
            for _ in range(self.rng.randrange(1, 8)):
                self.count()
            self.counter.add()
            self.journal[self.first + ADDED] += 1
            self.read_or_write(self.rng.random() < 0.25)


def run(region: mshare.Region, *, processes: int, seconds: float, kill_every_s: float) -> Result:
    """Let workers count, and kill one of them every `kill_every_s`; at the end, all. Raises AssertionError."""
    rows = processes + int(seconds / kill_every_s) + 1
    journal = memoryview(mmap.mmap(-1, rows * ROW * 8)).cast("Q")
    boss = Worker(region, journal, 0)
    workers: dict[int, int] = {}
    rng, kills, used = random.Random(1), 0, 0

    def start() -> None:
        nonlocal used
        pid = os.fork()
        if pid:
            workers[pid] = used
            used += 1
            return
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none outlives a test that was ended by force
            os.nice(10)
            Worker(region, journal, used).work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        workers.pop(pid)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "a worker ended by itself: see its traceback"

    try:
        for _ in range(processes):
            start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and used < rows:
            signal.sigtimedwait([signal.SIGUSR2], kill_every_s)
            kill(rng.choice(list(workers)))
            kills += 1
            start()
        turns = {row: journal[row * ROW + ADDED] for row in workers.values()}
        eventually(
            lambda: all(journal[row * ROW + ADDED] > before for row, before in turns.items()),
            lambda: f"a worker hangs: {turns}, {journal.tolist()}",
        )
    finally:
        for pid in list(workers):
            kill(pid)
    with boss.lock.recover(timeout=50) as died:
        if died is not None:
            boss.repair(died.pid)
    with boss.rwlock.recover(timeout=50):
        pass
    added = sum(journal[ADDED::ROW])
    assert added <= boss.counter.value <= added + kills + processes
    result = Result(boss.words[0], sum(journal[TURNS::ROW]), kills, boss.words[3])
    boss.words.release()
    return result
