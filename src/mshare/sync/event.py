"""A flag in a region that processes wait for. May depend on: linux, mutex, place, region.

Layout, in 8-byte words: the class; the flag in its first 4 bytes, 0 or 1; six unused words.

Facts: `set` stores the flag and then wakes. A process may be killed between the two.
Decision: a thread that waits looks at the flag again after 50 ms at the latest.
"""

from __future__ import annotations

import ctypes

from .._core.linux import futex
from .._core.region import Region
from .mutex import SLICE_S, deadline_of, left
from .place import HEAD_BYTES, Place, Placed

_CLASS = int.from_bytes(b"mshEvnt1", "little")
_FLAG_BYTE = 8


class Event(Placed):
    """A flag in a region that threads of all processes set, clear and wait for. Nobody owns an event."""

    SIZE = HEAD_BYTES
    """Bytes of the region that an event takes."""

    __slots__ = ("_flag", "_ref")

    def __init__(self, region: Region, offset: int = 0) -> None:
        """Use the event at byte `offset` of `region`, a multiple of 64. Bytes that are all zero become a cleared event.

        Raises as `Lock`.
        """
        place = Place(region, offset, self.SIZE, _CLASS, "the event")
        self._place = place
        self._flag = place.head.cast("B").cast("I")
        self._ref = ctypes.byref(place.exporter, place.offset + _FLAG_BYTE)
        place.head[0] = _CLASS

    def is_set(self) -> bool:
        """Tell whether the event is set. Raises `NotALockError` if something has overwritten the event."""
        flag = self._flag[2]
        if flag > 1 or self._place.head[0] != _CLASS:
            raise self._place.damaged()
        return flag == 1

    def set(self) -> None:
        """Set the event, and wake all threads that wait. Costs a system call."""
        self._flag[2] = 1
        futex.wake_all(self._ref)

    def clear(self) -> None:
        """Clear the event."""
        self._flag[2] = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, and return True. With `timeout`, in seconds, return False if it is over first.

        Python runs signal handlers within 50 ms. Raises `InvalidArgumentError`, `NotALockError`.
        """
        deadline = deadline_of(timeout)
        while not self.is_set():
            seconds = left(deadline, SLICE_S)
            if seconds <= 0:
                return False
            futex.wait(self._ref, 0, seconds)
        return True

    def __repr__(self) -> str:
        return f"<mshare.Event {'set' if self.is_set() else 'clear'}, at {self._place}>"
