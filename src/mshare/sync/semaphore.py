"""Permits in a region that come back when their holder dies. May depend on: errors, linux, mutex, place, region, units.

Layout: the class, with the number of permits in its last 2 bytes; a 4-byte count of releases; from byte 64 on one mutex
of 64 bytes for each permit.

Facts: the death of a holder frees the permit's mutex, but wakes no thread that waits for any permit.
Decision: a thread that waits tries all mutexes again after each release, and after 50 ms at the latest.
"""

from __future__ import annotations

import ctypes
from threading import get_ident

from .._core.errors import AlreadyOwnerError, InvalidArgumentError, NotOwnerError
from .._core.linux import futex
from .._core.region import Region
from .._core.units import whole
from .mutex import SLICE_S, Mutex, deadline_of, left
from .place import HEAD_BYTES, Place, Placed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_CLASS = int.from_bytes(b"mshSem\0\0", "little")
_PERMITS_SHIFT = 48
_MOST = 1023
_RELEASES = 2
_SLOT_BYTES = 64


class Semaphore(Placed):
    """Permits in a region, for threads of all processes. A permit belongs to the thread that has acquired it, and comes
    back when the thread ends in any way. A thread may have several permits. A fork gives the child none.
    """

    __slots__ = ("_first", "_held", "_permits", "_ref", "_releases")

    @staticmethod
    def size(permits: int) -> int:
        """Return the bytes of the region that a semaphore with so many permits takes."""
        return HEAD_BYTES + _SLOT_BYTES * permits

    def __init__(self, region: Region, offset: int = 0, *, permits: int) -> None:
        """Use the semaphore at byte `offset` of `region`, a multiple of 64. `permits`, 1 to 1023, is the same for all.
        Bytes that are all zero become a semaphore whose permits are all free.

        Raises as `Lock`; `NotALockError` also if the semaphore there has another number of permits.
        """
        count = whole(permits, "a number of permits")
        if not 1 <= count <= _MOST:
            raise InvalidArgumentError(f"{count} permits", f"use 1 to {_MOST}")
        kind = _CLASS | count << _PERMITS_SHIFT
        place = Place(region, offset, self.size(count), kind, f"the semaphore of {count} permits")
        first = Mutex(place, HEAD_BYTES)
        first._claim()
        self._place = place
        self._permits = [first, *(Mutex(place, HEAD_BYTES + _SLOT_BYTES * index) for index in range(1, count))]
        self._releases = place.head.cast("B").cast("I")
        self._ref = ctypes.byref(place.exporter, place.offset + 4 * _RELEASES)
        self._held: dict[int, list[Mutex]] = {}
        self._first = 0

    @property
    def permits(self) -> int:
        """The number of permits, free or not."""
        return len(self._permits)

    def acquire(self, timeout: float | None = None) -> bool:
        """Get a permit. With `timeout`, in seconds, return False if none is free by then; 0 does not wait.

        Python runs signal handlers within 50 ms. Raises `AlreadyOwnerError` if this thread has all permits,
        `InvalidArgumentError`, `NotALockError`.
        """
        deadline = deadline_of(timeout)
        while True:
            releases = self._releases[_RELEASES]
            if self._try():
                return True
            seconds = left(deadline, SLICE_S)
            if seconds <= 0:
                return False
            futex.wait(self._ref, releases, seconds)

    def _try(self) -> bool:
        """Get a permit if one is free."""
        mine = self._held.setdefault(get_ident(), [])
        mine[:] = [permit for permit in mine if permit._is_mine()]  # none of another thread that had the same identity
        if len(mine) == len(self._permits):
            raise AlreadyOwnerError(f"this thread has all permits of {self._place.what_and_where}", "release one first")
        for step in range(len(self._permits)):
            index = (self._first + step) % len(self._permits)
            permit = self._permits[index]
            if permit in mine:
                continue
            try:
                if permit._attempt():
                    mine.append(permit)
                    self._first = index
                    return True
            except BaseException:
                permit._abandon()
                raise
        return False

    def release(self) -> None:
        """Give back the permit that this thread got last through this object. Costs a system call.

        Raises `NotOwnerError` if the thread has none.
        """
        mine = self._held.get(get_ident())
        if not mine:
            raise NotOwnerError(f"this thread has no permit of {self._place.what_and_where}", "acquire one first")
        mine[-1]._give()
        mine.pop()
        futex.add_and_wake_one(self._ref)

    def __enter__(self) -> Self:
        """Get a permit, and wait as long as it takes."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the permit back."""
        self.release()

    def __repr__(self) -> str:
        return f"<mshare.Semaphore of {self.permits} permits at {self._place}>"
