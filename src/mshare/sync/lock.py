"""A lock in a region, whose next owner learns of the last one's death.
May depend on: linux, errors, mutex, place, region.

Layout, in 8-byte words: the class; the process whose thread holds the lock, or held the lock when it ended; when that
death was noticed; five unused words; the mutex in 40 bytes; 24 unused bytes.

Facts: the owner's word is stored after the mutex is locked, and cleared before the mutex is unlocked. A single aligned
8-byte store is never seen half done.
Consequence: a free mutex whose owner's word is not 0 was left by a death inside the guarded block. After a death
before or after the block the word is 0, and the data is whole.
Decision: that word, and not the kernel's mark, says that the data needs a repair. The word stays until a repair.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .._core.errors import AlreadyOwnerError, LockTimeoutError, OwnerDiedError
from .._core.linux.robust import KIND, NEXT, PREVIOUS, trylock, unlock
from .._core.region import Region
from .mutex import Mutex, deadline_of, process, process_of, thread
from .place import HEAD_BYTES, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_CLASS = int.from_bytes(b"mshLock1", "little")
OWNER, NOTICED = 1, 2
_DAMAGED = 1 << 63
"""The bit of the owner's word that says that the owner's death was noticed."""


def owner_died(place: Place) -> OwnerDiedError:
    """Return the error about the last owner of a lock, and note the time. The caller has the lock's mutex."""
    head = place.head
    head[NOTICED] = head[NOTICED] or time.time_ns()
    head[OWNER] |= _DAMAGED
    pid, started = process_of(head[OWNER])
    error = OwnerDiedError(
        f"process {pid} died while it held {place.what_and_where}", "repair the data in `with lock.recover() as died:`"
    )
    error.pid, error.started, error.noticed = pid, started, head[NOTICED] / 1e9
    error.region, error.offset = place.region_name, place.offset
    return error


def late(place: Place, timeout: float | None) -> LockTimeoutError:
    """Return the error for a lock that was not free in time."""
    return LockTimeoutError(f"{place.what_and_where} was not free within {timeout} s", "wait longer, or ask again")


class Lock(Mutex):
    """A lock in a region, between processes and threads.

    A thread owns the lock. When the owner ends in any way before `release`, the lock is free at once, and each attempt
    to get the lock raises `OwnerDiedError` until a `with lock.recover()` has repaired the data. A fork does not give
    the child the lock. The object keeps the region mapped.

    Python runs signal handlers within 50 ms while the main thread waits. An exception of a handler, such as
    KeyboardInterrupt, leaves the lock as before. An exception that arrives at the very first step of `release` or at
    the end of a `with` block leaves the lock held.
    """

    SIZE = 128
    """Bytes of the region that a lock takes."""

    __slots__ = ("_head",)

    def __init__(self, region: Region, offset: int = 0) -> None:
        """Use the lock at byte `offset` of `region`, a multiple of 64. Bytes that are all zero become a free lock.

        Raises `NotALockError` if other bytes lie there, `InvalidArgumentError`, `InvalidSizeError`,
        `ReadOnlyMappingError`, `RegionClosedError`, `BackendUnavailableError` (on musl, and on other machines than
        x86-64).
        """
        place = Place(region, offset, self.SIZE, _CLASS, "the lock")
        super().__init__(place, HEAD_BYTES)
        self._head = place.head
        self._claim()

    def acquire(self, timeout: float | None = None) -> bool:
        """Get the lock. With `timeout`, in seconds, return False if the lock is not free by then; 0 does not wait.

        Raises `OwnerDiedError`, without getting the lock, if the data needs a repair; `AlreadyOwnerError` if this
        thread has the lock; `NotALockError` if something has overwritten the lock; `InvalidArgumentError`.
        """
        deadline = deadline_of(timeout)
        self._check()
        head = self._head
        try:
            code = trylock(self._ref)
            if code and not self._settle(code, deadline):
                return False
            if head[OWNER]:
                raise owner_died(self._place)
            head[OWNER] = process.word
        except AlreadyOwnerError:
            raise
        except BaseException:
            self._undo()
            raise
        return True

    def __enter__(self) -> Self:
        """Get the lock, and wait as long as it takes. Raises as `acquire`."""
        head = self._head  # the same as `acquire`, with as few steps as can be
        if self._mutex[KIND] != self._kind or head[0] != _CLASS:
            raise self._place.damaged()
        try:
            code = trylock(self._ref)
            if code:
                self._settle(code, None)
            if head[OWNER]:
                raise owner_died(self._place)
            head[OWNER] = process.word
        except AlreadyOwnerError:
            raise
        except BaseException:
            self._undo()
            raise
        return self

    def release(self) -> None:
        """Release the lock. Raises `NotOwnerError` in a thread that does not have the lock, `NotALockError`."""
        mutex, first = self._mutex, thread.head
        if mutex[NEXT] != first or mutex[PREVIOUS] != first or mutex[KIND] != self._kind:
            self._check_links()  # the thread has other robust mutexes, or does not have this one
        self._head[OWNER] = 0
        if unlock(self._ref):
            raise self._not_mine()

    def __exit__(self, *_: object) -> None:
        """Release the lock, as `release`."""
        mutex, first = self._mutex, thread.head
        if mutex[NEXT] != first or mutex[PREVIOUS] != first or mutex[KIND] != self._kind:
            self._check_links()
        self._head[OWNER] = 0
        if unlock(self._ref):
            raise self._not_mine()

    @contextmanager
    def recover(self, timeout: float | None = None) -> Iterator[OwnerDiedError | None]:
        """Get the lock for a `with` block, also if its owner died. The block gets the `OwnerDiedError`, or None if
        the data is whole.

        The end of the block declares the data repaired and releases the lock. An exception in the block also releases
        the lock, and the data still needs its repair. The same holds if this thread dies in the block.
        Raises `LockTimeoutError` after `timeout` seconds, else as `acquire`.
        """
        deadline = deadline_of(timeout)
        head, died, got = self._head, None, False
        try:
            if not self._take(deadline):
                raise late(self._place, timeout)
            if head[OWNER]:
                died = owner_died(self._place)
            else:
                head[OWNER] = process.word
            got = True
            yield died
            head[NOTICED] = 0
            died = None
            self.release()
        except BaseException as error:
            if got:
                if self._is_mine():
                    if died is None:
                        head[OWNER] = 0
                    self._give()
            elif not isinstance(error, AlreadyOwnerError):
                self._undo()
            raise

    def _undo(self) -> None:
        """End an attempt that an exception has interrupted."""
        self._abandon(recorded=self._head[OWNER] == process.word)

    def __repr__(self) -> str:
        return f"<mshare.Lock at {self._place}>"
