"""Page faults of a server's new processes on its shared memory, counted by address.

The kernel's events `page_fault_user` and `page_fault_kernel` (the same that perf records) have the address of each
fault. The kernel drops the faults outside the memory, and the events of processes that the server has not forked since.
Needs root and x86-64. Where no tracefs is mounted, this process gets a mount that no other process sees.

May depend on: linux, geometry.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mshare._core.geometry import Span
from mshare._core.linux import mounts

_EVENTS = ("page_fault_user", "page_fault_kernel")
_BUFFER_KIB = 16 << 10
"""For each processor: 300,000 faults."""
_PLACE = "/sys/kernel/tracing"
_PID = re.compile(rb"^\s*\S.*?-(\d+)\s+\[\d+\]", re.MULTILINE)


def by_process(trace: bytes) -> Counter[int]:
    """Return the number of events of each process in the text of a trace."""
    return Counter(map(int, _PID.findall(trace)))


@contextmanager
def traced(parent: int, span: Span) -> Iterator[Callable[[int], int]]:
    """Count the faults on `span` of all processes that `parent` forks in the time of a `with` block. Give a function
    from a process id to the number of faults so far.

    Raises `OSError` where the kernel cannot do this, and if more faults happened than the buffer takes.
    """
    instance = _tracefs() / "instances" / f"mshare-{os.getpid()}"
    instance.mkdir()
    try:
        (instance / "buffer_size_kb").write_text(str(_BUFFER_KIB))
        (instance / "options" / "event-fork").write_text("1")
        (instance / "set_event_pid").write_text(str(parent))
        for event in _EVENTS:
            place = instance / "events" / "exceptions" / event
            (place / "filter").write_text(f"address >= {span.start:#x} && address < {span.end:#x}")
            (place / "enable").write_text("1")
        yield lambda pid: _count(instance, pid)
    finally:
        instance.rmdir()


def _count(instance: Path, pid: int) -> int:
    lost = sum(
        int(line.partition(":")[2])
        for stats in instance.glob("per_cpu/cpu*/stats")
        for line in stats.read_text().splitlines()
        if line.startswith(("overrun:", "dropped events:"))
    )
    if lost:
        raise OSError(f"{lost} page faults were lost: the trace's buffer is too small")
    return by_process((instance / "trace").read_bytes())[pid]


def _tracefs() -> Path:
    found = mounts.mounts("tracefs")
    if found:
        return Path(found[0].mount_point)
    if not mounts.private():
        raise PermissionError("counting page faults by address needs root")
    mounts.mount("tracefs", _PLACE, "")
    return Path(_PLACE)
