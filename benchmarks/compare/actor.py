"""A process, started afresh as a service is, that creates, attaches and uses what it is told, and says how it went.

May depend on: measure, numpy.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

from mshare.measure.child import Child, requests, say
from mshare.measure.mechanisms import Attachment, Mechanism, load, touch_every_page
from mshare.measure.probe import scan

_PROGRAM = "from benchmarks.compare.actor import main; main()"
_BLOCK = 1 << 16
"""Random reads between two looks at the clock; their indices, 512 KiB, and what was read, as much, stay in cache."""


class Refused(Exception):
    """The mechanism's library raised an error, whose text this is."""


class Actor:
    """The process, from outside."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def do(self, what: str, **arguments: Any) -> Any:
        """Have it done and return the result. Raises `Refused`, or `ChildProcessError` if the process died of it."""
        self.child.ask(do=what, **arguments)
        try:
            answer = self.child.answer()
        except ChildProcessError as error:
            raise ChildProcessError(death(self.child.kill())) from error
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["value"]

    def make(self, name: str, size_bytes: int) -> str:
        """Have it create a region, attach it and touch all of it, and return the token."""
        token: str = self.do("create", name=name, size=size_bytes)
        self.do("attach", token=token)
        self.do("touch")
        self.do("read")
        return token

    def outcome(self, what: str, **arguments: Any) -> str:
        """Have it done and say how that went: `ok`, or what happened instead."""
        try:
            self.do(what, **arguments)
        except (Refused, ChildProcessError) as error:
            return str(error)
        return "ok"


def death(status: int) -> str:
    """Return how a process with this exit status ended, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


@contextmanager
def actor(mechanism: Mechanism) -> Iterator[Actor]:
    """Give a new process that has imported the mechanism's library and attached nothing. Ends it normally."""
    with Child(_PROGRAM, mechanism.spec) as child:
        child.answer()
        yield Actor(child)


def random_reads(buf: memoryview, rounds: int) -> list[float]:
    """Return, for each round, the nanoseconds that reading 8 bytes at a random place took, the mean of 65,536 reads.

    `numpy.take` reads the places. The processor then has as many reads under way as it can, like a hash join or an
    index lookup. Each round draws new places, uniformly, before its clock starts.
    """
    import numpy

    words = numpy.frombuffer(buf, numpy.uint64, count=len(buf) // 8)
    source = numpy.random.default_rng(7)
    into = numpy.empty(_BLOCK, numpy.uint64)
    times = []
    for _ in range(rounds):
        places = source.integers(0, len(words), _BLOCK)
        start = perf_counter_ns()
        numpy.take(words, places, out=into, mode="clip")  # `raise`, the default, would copy `into`
        times.append((perf_counter_ns() - start) / _BLOCK)
    return times


class _Doer:
    """What an actor can do."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._attachment: Attachment | None = None
        self._sum = 0

    def create(self, name: str, size: int) -> str:
        return self._mechanism.create(name, size)

    def attach(self, token: str) -> None:
        self._attachment = self._mechanism.attach(token)

    def fill(self, name: str, size: int) -> int:
        """Create, attach, write to each page; return the nanoseconds that took; remove it."""
        start = perf_counter_ns()
        token = self._mechanism.create(name, size)
        self.attach(token)
        self.touch()
        took = perf_counter_ns() - start
        self.close()
        self._mechanism.destroy(token)
        return took

    def touch(self) -> None:
        touch_every_page(self._buf)

    def read(self) -> None:
        self._sum = scan(self._buf)

    def use(self) -> None:
        """Read all of it again and, where that is allowed, write. Raises `ValueError` if it is not what it was."""
        if scan(self._buf) != self._sum:
            raise ValueError("the memory is not what it was")
        if not self._buf.readonly:
            place, byte = random.randrange(len(self._buf)), random.randrange(1, 256)
            self._buf[place] = byte
            if self._buf[place] != byte:
                raise ValueError("a byte written is not there")
            self._sum = scan(self._buf)

    def random(self, rounds: int) -> list[float]:
        scan(self._buf)
        return random_reads(self._buf, rounds)

    def close(self) -> None:
        if self._attachment is not None:
            self._attachment.close()
        self._attachment = None

    @property
    def _buf(self) -> memoryview:
        assert self._attachment is not None
        assert self._attachment.buf is not None
        return self._attachment.buf


def main() -> None:
    """Serve requests until the creator closes or dies; then close the attachment, as documentation shows, and end."""
    gc.disable()
    doer = _Doer(load(sys.argv[1]))
    say("ready")
    for request in requests():
        method = getattr(doer, request.pop("do"))
        try:
            say({"value": method(**request)})
        except Exception as error:  # whatever the library raises is a result; its first paragraph
            say({"error": f"{type(error).__name__}: {error}".split("\n\n")[0]})
    doer.close()
