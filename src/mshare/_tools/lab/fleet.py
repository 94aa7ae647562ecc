"""Clients from their start to their end, seen from the process that counts them. May depend on: errors, zygote,
mechanisms, limit, run."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..._core.errors import MshareError
from . import zygote
from .limit import Limit
from .mechanisms import Place
from .run import again_step_bytes

SILENCE_LIMIT_S = 300.0
"""Nothing heard for so long: something is stuck. An emulated machine that is out of memory takes its time."""


class StuckError(MshareError, ChildProcessError):
    """No client said anything within `SILENCE_LIMIT_S`, or none will."""

    code = errno.ETIMEDOUT


class Arrival(NamedTuple):
    """The report of one client that has read everything."""

    good: int
    """Pages that held what the creator wrote."""
    faults: int
    """Minor faults of reading everything (`ru_minflt`)."""
    attach_ns: int
    read_ns: int
    clock_ns: int
    """CLOCK_MONOTONIC when it was done."""


@dataclass
class Fleet:
    """Clients of one place. They go with it."""

    process: subprocess.Popen[bytes]
    events: int
    again: int
    workers: int
    """The most clients that may read at the same time."""
    alive: dict[int, Arrival] = field(default_factory=dict)
    """Those that have read everything and are there."""
    arrivals: list[Arrival] = field(default_factory=list)
    """The reports of all clients that have read everything, in order."""
    peak: int = 0
    """The most that were there at the same time and had read everything."""
    killed: list[int] = field(default_factory=list)
    """Processes killed by SIGKILL since the start: by the kernel, as nobody else does."""
    answers: dict[int, int] = field(default_factory=dict)
    """Pages that held what was written, of those that have read again."""
    timing: tuple[int, int] | None = None
    refused: str | None = None
    """Why a client could not start or attach."""
    _pending: int = 0
    _measuring: int = 0
    _refused: set[int] = field(default_factory=set)
    """Those that have said why, and will end."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more: somebody was killed, or could not be started."""
        return bool(self.killed) or self.refused is not None

    def grow(self, clients: int) -> None:
        """Start clients until so many are there and have read everything, or it `is_full`."""
        while not self.is_full and len(self.alive) + self._pending < clients:
            self._order(b"c")
            while self._pending >= self.workers:
                self._next()
        while self._pending:
            self._next()

    def time_fork(self) -> tuple[int, int] | None:
        """Return the medians of fork and of exit in a client of its own, in ns, once it has gone; None if killed."""
        self._order(b"t")
        while self._pending:
            self._next()
        return self.timing

    def read_again(self) -> dict[int, int]:
        """Let everybody read again; return the pages that held what was written, by process. Once only."""
        os.close(self.again)
        self.again = -1
        while len(self.answers.keys() & self.alive.keys()) < len(self.alive):
            self._next()
        return {pid: self.answers[pid] for pid in self.alive}

    def end(self) -> None:
        """Kill everybody, and wait until the zygote is gone."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        deadline = time.monotonic() + SILENCE_LIMIT_S  # their memory and page tables go with them, not with the signal
        while any(_lives(pid) for pid in self.alive) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _order(self, order: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order)
        self._pending += 1

    def _next(self) -> None:
        """Wait for the next thing to happen, and note it."""
        ready, _, _ = select.select((self.events,), (), (), SILENCE_LIMIT_S)
        record = os.read(self.events, zygote.EVENT.size) if ready else b""
        if not ready:
            raise StuckError(
                f"{self._pending} clients have said nothing for {SILENCE_LIMIT_S:.0f} s",
                "use a larger --factor, or a machine with less to do",
            )
        if not record:
            raise StuckError("the process that forks the clients has ended", "see its message above")
        kind, pid, *numbers = zygote.EVENT.unpack(record)
        match kind:
            case b"R":
                self._pending -= 1
                self.alive[pid] = Arrival(*numbers)
                self.arrivals.append(self.alive[pid])
                self.peak = max(self.peak, len(self.alive))
            case b"T":
                self._measuring, self.timing = pid, (numbers[1], numbers[2])
            case b"A":
                self.answers[pid] = numbers[0]
            case b"F":
                self._pending -= 1
                self._refused.add(pid)
                self.refused = os.strerror(numbers[0])
            case b"D" if pid == self._measuring:
                self._pending -= 1
            case b"D" if pid not in self._refused:
                if numbers[0] == signal.SIGKILL:
                    self.killed.append(pid)
                else:
                    self.refused = f"killed by signal {numbers[0]}" if numbers[0] else "ended without a word"
                if self.alive.pop(pid, None) is None:
                    self._pending -= 1


def _lives(pid: int) -> bool:
    """Tell whether a killed process is still there. Fact: a zombie has given its page tables back, while one that says
    it has no memory (statm) may not have done so yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def fleet(place: Place, step_bytes: int, limit: Limit, workers: int) -> Iterator[Fleet]:
    """Give a fleet without clients, under `limit`, whose clients will read a byte of every `step_bytes`."""
    events, reporting = os.pipe()
    waiting, again = os.pipe()
    ending, end = os.pipe()
    settings = {
        **place._asdict(),
        "step_bytes": step_bytes,
        "again_step_bytes": again_step_bytes(place.size_bytes, step_bytes),
        "events": reporting,
        "again": waiting,
        "end": ending,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(zygote.__file__)), json.dumps(settings)],
        stdin=subprocess.PIPE,
        pass_fds=(reporting, waiting, ending),
        process_group=0,
        bufsize=0,
    )
    for fd in (reporting, waiting, ending):
        os.close(fd)
    made = Fleet(process, events, again, workers)
    try:
        limit.enter(process.pid)
        yield made
    finally:
        made.end()
        for fd in (events, end, made.again):
            if fd >= 0:
                os.close(fd)
