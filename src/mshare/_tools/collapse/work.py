"""Makes 2 MiB pages of an object, block by block. May depend on: plan, target, tally, room, linux.

*Facts*, tried on Linux 6.18: a block that nobody has touched is EINVAL and takes no memory. A block with one page
becomes 2 MiB, so it takes 512 times its memory. Collapsing copies 2 MiB: 0.7 ms, or 6 ms where a hypervisor must back
the memory first. A process that touches the block in the meantime waits.
*Decision.* Only blocks that are warm are collapsed, one call each. Between two calls the work can be ended, and nothing
is half done.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from ..._core.linux import proc
from .plan import Refusal
from .room import shortage
from .tally import REASONS, Done
from .target import Target

_BATCH = 16
"""Blocks between two looks at the memory that is left."""
_IN_A_ROW = 8
"""After so many blocks in a row without memory the work ends."""


class Pace(NamedTuple):
    """How much the work may disturb."""

    max_cpu: float = 100
    """Percent of the time in which blocks are collapsed; the rest is pause."""
    max_stall_s: float | None = None
    """A block that takes longer ends the work."""


def collapse(
    target: Target, numbers: Collection[int], pace: Pace, done: Done, progress: Callable[[int, int], None]
) -> None:
    """Collapse the blocks, and once more those that were in use. `done` has at any moment what was done so far.

    Raises `AccessDeniedError` without the rights.
    """
    _round(target, numbers, pace, done, progress)
    again = [number for number, error in done.refused.items() if error == errno.EAGAIN]
    if again and not done.stopped:
        _round(target, again, pace, done, lambda *_: None)


def _round(
    target: Target, numbers: Collection[int], pace: Pace, done: Done, progress: Callable[[int, int], None]
) -> None:
    without_memory = 0
    for index, number in enumerate(numbers):
        progress(index, len(numbers))
        mapping = target.carrier(number)
        if mapping is None:
            if not target.alive:
                done.gone, done.stopped = True, "no process maps the object any more"
                return
            continue
        if index % _BATCH == 0:
            short = shortage(mapping.pid, min(_BATCH, len(numbers) - index))
            if short is not None:
                done.shortage, done.stopped = short, str(short)
                return
        start = time.perf_counter()
        try:
            target.collapse(mapping, number)
        except ProcessLookupError:
            done.refused[number] = errno.EAGAIN  # ended just now: another process may have the block
        except OSError as error:
            if error.errno not in REASONS:
                raise
            done.refused[number] = error.errno
            without_memory += error.errno in (errno.ENOMEM, errno.EBUSY)
            if without_memory == _IN_A_ROW:
                done.shortage = Refusal(REASONS[error.errno], "free some memory, or raise the limit, and run again")
                done.stopped = str(done.shortage)
                return
        else:
            without_memory = 0
            done.collapsed += 1
            done.refused.pop(number, None)
        took = time.perf_counter() - start
        done.seconds += took
        done.worst_s = max(done.worst_s, took)
        if pace.max_stall_s is not None and took > pace.max_stall_s:
            done.stopped = f"a block took {took * 1e3:.1f} ms, longer than --max-stall"
            return
        if pace.max_cpu < 100:
            time.sleep(took * (100 / pace.max_cpu - 1))
    progress(len(numbers), len(numbers))


def vmpte(pids: Collection[int]) -> dict[int, int]:
    """Return the bytes of page tables of each process (`VmPTE`) that still lives."""
    found = {}
    for pid in pids:
        try:
            found[pid] = proc.status_fields(pid)["VmPTE"]
        except (OSError, KeyError):
            continue
    return found
