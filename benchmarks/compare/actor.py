"""A new process, started as a service is, that creates, attaches and uses regions on request, and reports the outcome.

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
"""Random reads between two looks at the clock. Their indices (512 KiB) and values (as much) stay in the cache."""


class Refused(Exception):
    """The mechanism's library raised an error with this text."""


class Actor:
    """The process, as seen from outside."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def do(self, what: str, **arguments: Any) -> Any:
        """Have the process do `what` and return the result. Raises `Refused`, or `ChildProcessError` if it died."""
        self.child.ask(do=what, **arguments)
        try:
            answer = self.child.answer()
        except ChildProcessError as error:
            raise ChildProcessError(death(self.child.kill())) from error
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["value"]

    def make(self, name: str, size_bytes: int) -> str:
        """Have the process create a region, attach the region and touch all of it. Return the token."""
        token: str = self.do("create", name=name, size=size_bytes)
        self.do("attach", token=token)
        self.do("touch")
        self.do("read")
        return token

    def outcome(self, what: str, **arguments: Any) -> str:
        """Have the process do `what`, and return `ok` or the text of the failure."""
        try:
            self.do(what, **arguments)
        except (Refused, ChildProcessError) as error:
            return str(error)
        return "ok"


def death(status: int) -> str:
    """Return in words how a process with this exit status ended."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


@contextmanager
def actor(mechanism: Mechanism) -> Iterator[Actor]:
    """Give a new process that has imported the mechanism's library and attached nothing. The process ends normally."""
    with Child(_PROGRAM, mechanism.spec) as child:
        child.answer()
        yield Actor(child)


def random_reads(buf: memoryview, rounds: int) -> list[float]:
    """Return the nanoseconds of a read of 8 bytes at a random place, for each round: the mean of 65,536 reads.

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
    """The requests that an actor serves."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._attachment: Attachment | None = None
        self._sum = 0

    def create(self, name: str, size: int) -> str:
        return self._mechanism.create(name, size)

    def attach(self, token: str) -> None:
        self._attachment = self._mechanism.attach(token)

    def fill(self, name: str, size: int) -> int:
        """Create and attach a region, and write to each page. Remove the region and return the nanoseconds before."""
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
        """Read all memory again, and write if the memory is writable. Raises `ValueError` if the memory has changed."""
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
    """Serve requests until the creator closes or dies. Then close the attachment as documented, and end."""
    gc.disable()
    doer = _Doer(load(sys.argv[1]))
    say("ready")
    for request in requests():
        method = getattr(doer, request.pop("do"))
        try:
            say({"value": method(**request)})
        except Exception as error:  # every error of the library is a result: its first paragraph
            say({"error": f"{type(error).__name__}: {error}".split("\n\n")[0]})
    doer.close()
