"""500 processes attach and detach at random, one is killed every 50 ms: nothing is lost, leaked or miscounted.

`MSHARE_STRESS_SECONDS` (30) and `MSHARE_STRESS_PROCESSES` (499) say how long and how many.

The test finds lost updates, although kills may come between any two stores. Every worker owns one slot of three words
in one region. A turn writes `turn` into the first word, an equal mark into the second and the turn's checksum into the
third, each with an aligned 8-byte store. Before these stores the worker acknowledges its last turn in an anonymous
shared page of the parent. Whichever worker dies, the first word of its slot is never below the acknowledged turn, and
never more than one above that turn. A slot that was left at rest has three words that agree.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import time
from pathlib import Path

import pytest

import mshare
from mshare._core.geometry import PAGE
from mshare.testing.conformance import backend_of, files
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("MSHARE_STRESS_SECONDS", "30"))
PROCESSES = int(os.environ.get("MSHARE_STRESS_PROCESSES", "499"))
KILL_EVERY_S = 0.05
PAUSE_S = PROCESSES / 151
"""The average pause of a worker between two visits: 151 visits a second, which two cores can bear."""
WORDS = 8
"""8-byte words per slot: a cache line each."""
PRIME = 0x9E3779B97F4A7C15


def mix(turn: int) -> int:
    return turn * PRIME & (1 << 64) - 1


def work(slot: int, acknowledged: memoryview, size: int) -> None:
    """Attach, take one turn or several, detach; until killed."""
    rng = random.Random(os.getpid())
    start = slot * WORDS
    os.nice(10)  # so that the killing process gets its turns on a small machine
    while True:
        signal.sigtimedwait([signal.SIGUSR2], rng.expovariate(1 / PAUSE_S))
        mine = f"churn-{slot}"
        if rng.random() < 0.02:  # names also come and go; a killed predecessor may have left this one
            with mshare.mshare(mine, None, PAGE, os.O_CREAT | os.O_RDWR) as own:
                own.buf[0] = slot % 251
            mshare.mshare_unlink(mine)
        with mshare.attach("shared") as region, region.buf.cast("Q") as words:
            assert region.size == size
            for _ in range(rng.randrange(1, 8)):
                turn = words[start]
                assert turn in (acknowledged[slot], acknowledged[slot] + 1), (slot, turn, acknowledged[slot])
                acknowledged[slot] = turn
                words[start] = turn + 1
                words[start + 1] = turn + 1
                words[start + 2] = mix(turn + 1)
        with mshare.attach("shared", readonly=True) as region, region.buf.cast("Q") as words:
            assert words[start] == acknowledged[slot] + 1
            assert words[start + 1] == words[start]
            assert words[start + 2] == mix(words[start])


def start_worker(slot: int, acknowledged: memoryview, size: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none outlives a test that was ended by force
    status = 1
    try:
        work(slot, acknowledged, size)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def test_churn(backend: str) -> None:
    size = PROCESSES * WORDS * 8
    os.environ["MSHARE_BACKEND"] = (
        "shm" if backend == "hugetlb" else backend
    )  # for the names: one huge page each is much
    free_before = backend_of(backend).space().free_bytes
    acknowledged = memoryview(mmap.mmap(-1, PROCESSES * 8)).cast("Q")
    mshare.create("shared", size, backend=backend).close()
    rng = random.Random(1)
    turns = kills = 0
    workers: dict[int, int] = {}
    try:
        for slot in range(PROCESSES):
            workers[start_worker(slot, acknowledged, size)] = slot
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            signal.sigtimedwait([signal.SIGUSR2], KILL_EVERY_S)
            victim = rng.choice(list(workers))
            os.kill(victim, signal.SIGKILL)
            assert os.waitpid(victim, 0)[1] == signal.SIGKILL, "a worker ended by itself: see its traceback"
            kills += 1
            slot = workers.pop(victim)
            workers[start_worker(slot, acknowledged, size)] = slot
        assert sorted(workers.values()) == list(range(PROCESSES))
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        statuses = {os.waitpid(pid, 0)[1] for pid in workers}
        os.environ.pop("MSHARE_BACKEND")
    assert statuses == {signal.SIGKILL}, "a worker ended by itself: see its traceback"
    eventually(lambda: all(info.orphan and not info.pids for info in mshare.regions()), lambda: str(mshare.regions()))
    with mshare.attach("shared", readonly=True) as region, region.buf.cast("Q") as words:
        for slot in range(PROCESSES):
            turn, mark, checksum = words[slot * WORDS : slot * WORDS + 3]
            assert turn in (acknowledged[slot], acknowledged[slot] + 1)
            assert mark in (turn, turn - 1)
            assert checksum in (mix(turn), mix(mark), mix(mark - 1)) or turn <= 1
            turns += turn
        assert [info.pids for info in mshare.regions() if info.name == "shared"] == [(os.getpid(),)]
        assert not region.info().orphan
    left = {path.name for path in files()}
    assert {info.name for info in mshare.gc()} == left
    assert files() == []
    assert turns > PROCESSES
    eventually(
        lambda: backend != "hugetlb" or backend_of(backend).space().free_bytes >= free_before,
        lambda: "huge pages have not come back",
    )
    assert not [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "churn" in line or "shared" in line
    ]
    print(f"{backend}: {PROCESSES} processes, {kills} kills, {turns} turns")
