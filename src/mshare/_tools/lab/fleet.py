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
"""After so long without a report the clients are stuck. An emulated machine that is out of memory is slow."""


class StuckError(MshareError, ChildProcessError):
    """No client has reported within `SILENCE_LIMIT_S`, or no client will."""

    code = errno.ETIMEDOUT


class Arrival(NamedTuple):
    """The report of one client that has read everything."""

    good: int
    """Pages that held the creator's bytes."""
    faults: int
    """Minor faults of reading everything (`ru_minflt`)."""
    attach_ns: int
    read_ns: int
    clock_ns: int
    """CLOCK_MONOTONIC at the end of the reading."""


@dataclass
class Fleet:
    """Clients of one place. They end with the fleet."""

    process: subprocess.Popen[bytes]
    events: int
    again: int
    workers: int
    """The most clients that may read at the same time."""
    alive: dict[int, Arrival] = field(default_factory=dict)
    """Clients that have read everything and live."""
    arrivals: list[Arrival] = field(default_factory=list)
    """The reports of all clients that have read everything, in order."""
    peak: int = 0
    """The most clients that lived at the same time and had read everything."""
    killed: list[int] = field(default_factory=list)
    """Processes that the kernel has killed since the start. Only the kernel uses SIGKILL."""
    answers: dict[int, int] = field(default_factory=dict)
    """Pages that held the creator's bytes, by client that has read again."""
    timing: tuple[int, int] | None = None
    refused: str | None = None
    """The reason why a client could not start or attach."""
    _pending: int = 0
    _measuring: int = 0
    _refused: set[int] = field(default_factory=set)
    """Clients that have reported a failure and will end."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more: a client was killed, or could not start."""
        return bool(self.killed) or self.refused is not None

    def grow(self, clients: int) -> None:
        """Start clients until so many live and have read everything, or the fleet `is_full`."""
        while not self.is_full and len(self.alive) + self._pending < clients:
            self._order(b"c")
            while self._pending >= self.workers:
                self._next()
        while self._pending:
            self._next()

    def time_fork(self) -> tuple[int, int] | None:
        """Return the medians of fork and of exit in a separate client, in ns, after its end; None if it was killed."""
        self._order(b"t")
        while self._pending:
            self._next()
        return self.timing

    def read_again(self) -> dict[int, int]:
        """Let all clients read again, once. Return the pages that held the creator's bytes, by process."""
        os.close(self.again)
        self.again = -1
        while len(self.answers.keys() & self.alive.keys()) < len(self.alive):
            self._next()
        return {pid: self.answers[pid] for pid in self.alive}

    def end(self) -> None:
        """Kill all clients, and wait until the zygote is gone."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        deadline = time.monotonic() + SILENCE_LIMIT_S  # memory goes with their end, not with the signal
        while any(_lives(pid) for pid in self.alive) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _order(self, order: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order)
        self._pending += 1

    def _next(self) -> None:
        """Wait for the next event, and note it."""
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
