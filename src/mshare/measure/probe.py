"""The process that pays: a fresh interpreter that attaches, scans, forks and detaches on request, and reports the
costs. May depend on: child, mechanisms, linux, numpy.

The figures leave out the interpreter's own costs. Every step runs once on something small before it counts, and the
garbage collector is off. The faults of a second scan, when the region's pages are mapped, are subtracted from those of
the first.
"""

from __future__ import annotations

import gc
import os
import resource
import struct
import sys
import zlib
from statistics import median
from time import perf_counter_ns
from typing import NamedTuple

from .._core.linux import proc
from .child import requests, say
from .mechanisms import Attachment, Mechanism, Nothing, load

_PAGE = 4096
_FORKS = 3
IN_A_ROW = 4001
_LAST = 1001


class ProcessCost(NamedTuple):
    """The costs of one process. Its times are from a machine that may do other things."""

    vmpte_bytes: int
    """Growth of `VmPTE` in /proc/self/status by attaching and scanning: bytes of page tables."""
    minor_faults: int
    """Growth of `ru_minflt` (getrusage) in the first scan, less that of a second one."""
    first_attach_ns: int
    """The first attach of this process, with modules imported. It includes all work that is done only once."""
    attach_ns: int
    """Attaching; median of several times, nothing touched."""
    close_ns: int
    """Detaching untouched memory; median of several times."""
    attach_close_ns: int
    """Both together; median of several times."""
    attach_close_often_ns: int
    """Both together, median of the last 1,001 of 4,001 times in a row: deferred work is paid by then."""
    scan_ns: int
    """Summing all memory for the first time in this process, with the faults and the page tables."""
    scan_again_ns: int
    """Summing all memory when this process has it mapped: memory and TLB alone."""
    detach_ns: int
    """Detaching scanned memory, with the release of its page tables."""
    fork_ns: int
    """`fork` with the memory attached and scanned; median."""
    exit_ns: int
    """From `_exit` of a forked child that has scanned the memory until the parent knows; median."""


def scan(buf: memoryview) -> int:
    """Read all of `buf` in C speed and return a sum of it (of its whole 8-byte words with numpy, else a CRC)."""
    try:
        import numpy
    except ImportError:
        return zlib.crc32(buf)
    return int(numpy.frombuffer(buf, numpy.uint64, count=len(buf) // 8).sum())


def touch(buf: memoryview, start: int, end: int) -> None:
    """Read one byte of every 4 KiB page of bytes `start` to `end`, in C speed."""
    buf[start:end:_PAGE].tobytes()


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _vmpte() -> int:
    return proc.status_fields()["VmPTE"]


def _buf(attachment: Attachment) -> memoryview:
    buf = attachment.buf
    assert buf is not None
    return buf


def _time_attach(mechanism: Mechanism, token: str, cycles: int, last: int | None = None) -> tuple[int, int, int]:
    """Return the medians of attaching, of closing, and of both, of the `last` of so many cycles."""
    attaches, closes = [], []
    for _ in range(cycles):
        start = perf_counter_ns()
        attachment = mechanism.attach(token)
        attached = perf_counter_ns()
        attachment.close()
        closes.append(perf_counter_ns() - attached)
        attaches.append(attached - start)
    last = last or cycles
    both = [a + b for a, b in zip(attaches[-last:], closes[-last:], strict=True)]
    return int(median(attaches[-last:])), int(median(closes[-last:])), int(median(both))


def _time_fork(attachment: Attachment) -> tuple[int, int]:
    """Return the time `fork` takes, and the exit of a child that has touched everything."""
    receiver, sender = os.pipe()
    forks, exits = [], []
    for _ in range(_FORKS):
        start = perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            try:
                scan(_buf(attachment))
                os.write(sender, struct.pack("q", perf_counter_ns()))
            finally:
                os._exit(0)
        forks.append(perf_counter_ns() - start)
        os.waitpid(pid, 0)
        ended = perf_counter_ns()
        exits.append(ended - struct.unpack("q", os.read(receiver, 8))[0])
    os.close(receiver)
    os.close(sender)
    return int(median(forks)), int(median(exits))


def _warm_up() -> None:
    """Run the measured code over a private page first: imports, and writes to pages that a fork has left to copy."""
    for _ in range(3):
        page = Nothing().attach("")
        scan(_buf(page))
        page.close()
        _vmpte()
        _faults()


def pay(mechanism: Mechanism, token: str, cycles: int, in_a_row: int = IN_A_ROW) -> ProcessCost:
    """Do all steps once and return the costs."""
    _warm_up()
    first_attach_ns, *_ = _time_attach(mechanism, token, 1)
    attach_ns, close_ns, attach_close_ns = _time_attach(mechanism, token, cycles)
    *_, often_ns = _time_attach(mechanism, token, in_a_row, _LAST)
    _warm_up()
    vmpte_before = _vmpte()
    attachment = mechanism.attach(token)
    faults = [_faults()]
    times = []
    for _ in range(2):
        start = perf_counter_ns()
        scan(_buf(attachment))
        times.append(perf_counter_ns() - start)
        faults.append(_faults())
    vmpte_after = _vmpte()
    fork_ns, exit_ns = _time_fork(attachment)
    start = perf_counter_ns()
    attachment.close()
    detach_ns = perf_counter_ns() - start
    return ProcessCost(
        vmpte_bytes=vmpte_after - vmpte_before,
        minor_faults=faults[1] - faults[0] - (faults[2] - faults[1]),
        first_attach_ns=first_attach_ns,
        attach_ns=attach_ns,
        close_ns=close_ns,
        attach_close_ns=attach_close_ns,
        attach_close_often_ns=often_ns,
        scan_ns=times[0],
        scan_again_ns=times[1],
        detach_ns=detach_ns,
        fork_ns=fork_ns,
        exit_ns=exit_ns,
    )


def main() -> None:
    """Serve the requests `pay`, `attach`, `touch` and `detach`, each with an answer. `sys.argv`: spec and token."""
    spec, token = sys.argv[1:]
    gc.disable()
    mechanism = load(spec)
    _warm_up()
    attachment: Attachment | None = None
    say("ready")
    for request in requests():
        match request["do"]:
            case "pay":
                say(pay(mechanism, token, request["cycles"], request["in_a_row"])._asdict())
            case "attach":
                attachment = mechanism.attach(token)
                say(_vmpte())
            case "touch":
                assert attachment is not None
                touch(_buf(attachment), request["start"], request["end"])
                say(_vmpte())
            case "detach":
                assert attachment is not None
                attachment.close()
                attachment = None
                say(_vmpte())
    if attachment is not None:
        attachment.close()
    mechanism.leave(token)
