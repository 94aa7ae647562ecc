"""A 64-bit counter in a region. May depend on: errors, mutex, place, region, units.

Layout, in 8-byte words: the class; the value; six unused words; a mutex in 40 bytes; 24 unused bytes.

Facts: Python without an extension has no atomic instruction. A single aligned 8-byte store is never seen half done.
Decision: a change is one such store under a robust mutex. A thread that dies before the store has changed nothing, and
one that dies after the store has changed the value once. The mutex needs no repair in either case.
"""

from __future__ import annotations

from collections.abc import Callable

from .._core.errors import AlreadyOwnerError, InvalidArgumentError
from .._core.region import Region
from .._core.units import whole
from .mutex import Mutex
from .place import HEAD_BYTES, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

_CLASS = int.from_bytes(b"mshCntr1", "little")
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1


class Counter(Mutex):
    """A counter in a region, from -2^63 to 2^63 - 1, that processes and threads change one after the other.

    A change is there as a whole or not at all, also if its thread is killed at any point. The changes are atomic
    with respect to this class. An atomic instruction of a C program on `value`'s bytes does not respect the mutex.
    """

    SIZE = 128
    """Bytes of the region that a counter takes. The value lies in the second 8 bytes, in the machine's byte order."""

    __slots__ = ("_value",)

    def __init__(self, region: Region, offset: int = 0) -> None:
        """Use the counter at byte `offset` of `region`, a multiple of 64. Bytes that are all zero become a
        counter at 0.

        Raises as `Lock`.
        """
        place = Place(region, offset, self.SIZE, _CLASS, "the counter")
        super().__init__(place, HEAD_BYTES)
        self._value = place.head.cast("B").cast("q")
        self._claim()

    @property
    def value(self) -> int:
        """The value at this moment. Costs no lock."""
        return self._value[1]

    def add(self, amount: SupportsIndex = 1) -> int:
        """Add `amount`, which may be negative, and return the new value.

        Raises `InvalidArgumentError` if the sum is out of range, `AlreadyOwnerError` in a signal handler that has
        interrupted a change by the same thread, `NotALockError` if something has overwritten the counter.
        """
        return self._change(whole(amount, "an amount"))

    def set(self, value: SupportsIndex) -> int:
        """Set the value and return the one before. Raises as `add`."""
        value, before = whole(value, "a value"), 0

        def change(found: int) -> int:
            nonlocal before
            before = found
            return value

        self._change(change=change)
        return before

    def compare_and_swap(self, expected: SupportsIndex, value: SupportsIndex) -> bool:
        """Set the value if it is `expected`, and tell whether it was. Raises as `add`."""
        expected, value, equal = whole(expected, "a value"), whole(value, "a value"), False

        def change(found: int) -> int:
            nonlocal equal
            equal = found == expected
            return value if equal else found

        self._change(change=change)
        return equal

    def _change(self, amount: int = 0, change: Callable[[int], int] | None = None) -> int:
        """Add `amount`, or store what `change` makes of the value, and return the new value."""
        words = self._value
        try:
            self._take(None)
            after = words[1] + amount if change is None else change(words[1])
            if not _LOWEST <= after <= _HIGHEST:
                raise InvalidArgumentError(f"{after} does not fit into 64 bits", "use a smaller amount")
            words[1] = after
            self._give()
        except AlreadyOwnerError:
            raise
        except BaseException:
            self._abandon()
            raise
        return after

    def __repr__(self) -> str:
        return f"<mshare.Counter {self.value} at {self._place}>"
