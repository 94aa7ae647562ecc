"""A lock in a region for many readers or one writer. May depend on: errors, linux, lock, mutex, place, region, units.

Layout: the class, with the number of readers in its last 2 bytes; then as in `lock`, with a mutex called the gate; then
one mutex of 64 bytes for each reader.

Facts: a reader that dies must not count. A number of readers would still count the dead reader.
Decision: each reader holds a mutex of its own, which the kernel frees at the reader's death. Readers pass the gate to
get one. A writer closes the gate and waits for each mutex that a reader has. A waiting writer thus keeps new readers
out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_native_id

from .._core.errors import AlreadyOwnerError, InvalidArgumentError, OwnerDiedError
from .._core.linux.robust import THREAD_MASK
from .._core.region import Region
from .._core.units import whole
from .lock import Guard, late
from .mutex import SLICE_S, Mutex, deadline_of, left, process
from .place import HEAD_BYTES, Place

_CLASS = int.from_bytes(b"mshRWL\0\0", "little")
_READERS_SHIFT = 48
_MOST = 1023
_SLOT_BYTES = 64


class RWLock(Guard):
    """A lock in a region that many threads may have for reading, or one thread for writing.

    A reader that dies is not counted. After a writer has died in its block, readers and writers get `OwnerDiedError`
    until a `with lock.recover()` has repaired the data. Writers go before new readers. A thread that reads cannot
    read a second time or write, because it could wait for itself.
    """

    __slots__ = ("_first", "_slots", "_words")

    @staticmethod
    def size(readers: int = 64) -> int:
        """Return the bytes of the region that a lock for so many readers at once takes."""
        return HEAD_BYTES + _SLOT_BYTES * (1 + readers)

    def __init__(self, region: Region, offset: int = 0, *, readers: int = 64) -> None:
        """Use the lock at byte `offset` of `region`, a multiple of 64. `readers`, 1 to 1023, is the largest number of
        readers at once, the same for all; further readers wait. Bytes that are all zero become a free lock.

        Raises as `Lock`; `NotALockError` also if the lock there is for another number of readers.
        """
        count = whole(readers, "a number of readers")
        if not 1 <= count <= _MOST:
            raise InvalidArgumentError(f"{count} readers", f"use 1 to {_MOST}")
        kind = _CLASS | count << _READERS_SHIFT
        place = Place(region, offset, self.size(count), kind, f"the lock of {count} readers")
        super().__init__(place)
        first = HEAD_BYTES + _SLOT_BYTES
        self._slots = [Mutex(place, first + _SLOT_BYTES * index) for index in range(count)]
        start = place.offset + first
        bytes_ = memoryview(place.exporter).cast("B")[start : start + _SLOT_BYTES * count]
        self._words = bytes_.cast("I")[:: _SLOT_BYTES // 4]
        self._first = 0

    @contextmanager
    def read(self, timeout: float | None = None) -> Iterator[None]:
        """Have the lock for reading during a `with` block.

        Raises `LockTimeoutError` after `timeout` seconds, `OwnerDiedError` if the data needs a repair,
        `AlreadyOwnerError` if this thread has the lock, `NotALockError`, `InvalidArgumentError`.
        """
        deadline = self._start(timeout)
        try:
            self._pass_gate(deadline, timeout)
            if self._owner.value:
                raise self._died()
            slot = self._free_slot(deadline)
            if slot is None:
                raise late(self._place, timeout)
            self._give()
            yield
            slot._give()
        except BaseException:
            self._leave()
            raise

    @contextmanager
    def write(self, timeout: float | None = None) -> Iterator[None]:
        """Have the lock for writing during a `with` block. Raises as `read`."""
        with self._write(timeout) as died:
            if died is not None:
                raise died
            yield

    @contextmanager
    def recover(self, timeout: float | None = None) -> Iterator[OwnerDiedError | None]:
        """Have the lock for writing during a `with` block, also if the last writer died. The block gets the
        `OwnerDiedError`, or None if the data is whole. The end of the block declares the data repaired. An exception or
        a death in the block does not. Raises as `read`.
        """
        with self._write(timeout) as died:
            yield died

    @contextmanager
    def _write(self, timeout: float | None) -> Iterator[OwnerDiedError | None]:
        deadline = self._start(timeout)
        died, got = None, False
        try:
            self._pass_gate(deadline, timeout)
            for slot, word in zip(self._slots, self._words.tolist(), strict=True):
                if word & THREAD_MASK:
                    if not slot._take(deadline):
                        raise late(self._place, timeout)
                    slot._give()
            if self._owner.value:
                died = self._died()
            else:
                self._owner.value = process.word
            got = True
            yield died
            self._repaired()
        except BaseException:
            if got and died is None and self._is_mine():
                self._owner.value = 0
            self._leave()
            raise

    def _start(self, timeout: float | None) -> float | None:
        """Return the deadline. Raises `AlreadyOwnerError` if this thread has the lock in any way."""
        if self._is_mine() or self._own_slots():
            raise AlreadyOwnerError(f"this thread has {self._place.what_and_where}", "leave the `with` block first")
        return deadline_of(timeout)

    def _pass_gate(self, deadline: float | None, timeout: float | None) -> None:
        if not self._take(deadline):
            raise late(self._place, timeout)

    def _free_slot(self, deadline: float | None) -> Mutex | None:
        """Return a reader's mutex that this thread has got; None if the time is over. The caller has the gate."""
        while True:
            words = self._words.tolist()
            for step in range(len(words)):
                index = (self._first + step) % len(words)
                if not words[index] & THREAD_MASK and self._slots[index]._attempt():
                    self._first = index
                    return self._slots[index]
            seconds = left(deadline, SLICE_S)
            if seconds <= 0:
                return None
            self._first = (self._first + 1) % len(words)
            if self._slots[self._first]._take(time.monotonic() + seconds):
                return self._slots[self._first]

    def _own_slots(self) -> list[Mutex]:
        """Return the readers' mutexes that this thread holds: one at most."""
        own, words = get_native_id(), self._words.tolist()
        found = [slot for slot, word in zip(self._slots, words, strict=True) if word & THREAD_MASK == own]
        return [slot for slot in found if slot._is_mine()]

    def _leave(self) -> None:
        """Release what this thread has of the lock. The data's state stays."""
        for slot in self._own_slots():
            slot._abandon()
        self._abandon()

    def __repr__(self) -> str:
        return f"<mshare.RWLock of {len(self._slots)} readers at {self._place}>"
