"""Makes 2 MiB pages of an object, block by block. May depend on: plan, target, tally, room, probe,
linux, scan.

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
from ..scan.mappings import Mapping
from .plan import Candidate, Refusal
from .probe import one_call_is_enough
from .room import forbidden, shortage
from .tally import REASONS, Counts, Done, Threshold, count
from .target import Target, opened

Step = Callable[[int, int], None]
"""Called with the blocks done and the blocks in all."""
Room = Callable[[int, int], Refusal | None]
"""A function that names the resource that is short for so many blocks of a process, or returns None."""

_GONE = "no process maps the object any more"

_BATCH = 16
"""Blocks between two looks at the memory that is left."""
_TRIES = 3
"""How often blocks that were in use are tried again."""
_IN_A_ROW = 8
"""After so many blocks in a row without memory the work ends."""


class Pace(NamedTuple):
    """The limits of the disturbance by the work."""

    max_cpu: float = 100
    """Percent of the time in which blocks are collapsed; the rest is pause."""
    max_stall_s: float | None = None
    """A block that takes longer ends the work."""


def run(
    candidate: Candidate, pace: Pace, threshold: Threshold, done: Done, progress: Step, room: Room = shortage
) -> Counts | None:
    """Collapse the warm blocks of an object, and again those that were in use. `done` has at any moment what was
    done so far. Ctrl-C ends the work, and `done` says so. Return the counts afterwards, None if the object has gone.

    `threshold` says which blocks are warm. `room` says what memory is lacking for some blocks of a process.
    Raises `AccessDeniedError` without the rights.
    """
    try:
        with opened(candidate) as target:
            numbers: list[int] = []
            try:
                numbers = [each.number for each in threshold.chosen(target.blocks())]
                _round(target, numbers, pace, done, progress, room)
                for _ in range(_TRIES):
                    again = [number for number, error in done.refused.items() if error == errno.EAGAIN]
                    if again and not done.stopped:
                        _round(target, again, pace, done, silent, room)
                if not one_call_is_enough() and not done.gone:
                    _others(target, pace, done)
            except KeyboardInterrupt:
                done.stopped, done.interrupted = "interrupted", True
            if done.gone:
                return None
            blocks = target.blocks()
            done.settle(numbers, blocks)
            return count(blocks, threshold, candidate.reachable)
    except ProcessLookupError:
        done.gone, done.stopped = True, _GONE
        return None


def silent(done: int, total: int) -> None:
    """Show no progress."""
    del done, total


def _round(target: Target, numbers: Collection[int], pace: Pace, done: Done, progress: Step, room: Room) -> None:
    without_memory = 0
    progress(0, len(numbers))
    for index, number in enumerate(numbers):
        mapping = target.carrier(number)
        if mapping is None:
            if not target.alive:
                done.gone, done.stopped = True, _GONE
                return
            continue
        if index % _BATCH == 0:
            done.shortage = room(mapping.pid, min(_BATCH, len(numbers) - index))
            if done.shortage is not None:
                done.stopped = str(done.shortage)
                return
        error, took_s = _block(target, mapping, number)
        progress(index + 1, len(numbers))
        done.seconds += took_s
        done.worst_s = max(done.worst_s, took_s)
        if error:
            done.refused[number] = error
        else:
            done.collapsed += 1
            done.refused.pop(number, None)
        without_memory = without_memory + 1 if error in (errno.ENOMEM, errno.EBUSY) else 0
        if without_memory == _IN_A_ROW:
            done.shortage = Refusal(REASONS[error], "free some memory, or raise the limit, and run again")
        elif error == errno.EINVAL:
            done.shortage = forbidden()
        if done.shortage is not None:
            done.stopped = str(done.shortage)
            return
        if pace.max_stall_s is not None and took_s > pace.max_stall_s:
            done.stopped = f"a block took {took_s * 1e3:.1f} ms, longer than --max-stall"
            return
        if pace.max_cpu < 100:
            time.sleep(took_s * (100 / pace.max_cpu - 1))


def _others(target: Target, pace: Pace, done: Done) -> None:
    """Free the page tables of every process, where a call frees those of one: for all blocks that are 2 MiB pages."""
    huge = [each.number for each in target.blocks() if each.huge]
    for mapping in target.mappings:
        start = time.perf_counter()
        for number in huge:
            if number in mapping.blocks:
                _block(target, mapping, number)  # EINVAL: the process has no page table for the block
        took_s = time.perf_counter() - start
        done.seconds += took_s
        if pace.max_cpu < 100:
            time.sleep(took_s * (100 / pace.max_cpu - 1))


def _block(target: Target, mapping: Mapping, number: int) -> tuple[int, float]:
    """Collapse one block. Return the errno, 0 if it is done, and the seconds."""
    start, error = time.perf_counter(), 0
    try:
        target.collapse(mapping, number)
    except ProcessLookupError:
        error = errno.EAGAIN  # ended just now: another process may have the block
    except OSError as refused:
        if refused.errno not in REASONS:
            raise
        error = refused.errno
    return error, time.perf_counter() - start


def vmpte(pids: Collection[int]) -> dict[int, int]:
    """Return the bytes of page tables of each process (`VmPTE`) that still lives."""
    found = {}
    for pid in pids:
        try:
            found[pid] = proc.status_fields(pid)["VmPTE"]
        except (OSError, KeyError):
            continue
    return found
