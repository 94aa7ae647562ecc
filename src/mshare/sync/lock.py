"""A lock in a region, whose next owner learns of the last one's death.
May depend on: linux, errors, mutex, place, region.

Layout, in 8-byte words: the class; when a death was noticed; six unused words; the mutex in 40 bytes; the process whose
thread holds the lock, or held the lock when it ended; two unused words.

Facts: the owner's word is stored after the mutex is locked, and cleared before the mutex is unlocked. A single aligned
8-byte store is never seen half done.
Consequence: a free mutex whose owner's word is not 0 was left by a death inside the guarded block. After a death
before or after the block the word is 0, and the data is whole.
Decision: that word, and not the kernel's mark, says that the data needs a repair. The word stays until a repair.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .._core.errors import AlreadyOwnerError, LockTimeoutError, OwnerDiedError
from .._core.linux.robust import KIND, MUTEX_BYTES, TAIL_BYTE, TAIL_BYTES, trylock, unlock
from .._core.region import Region
from .mutex import Mutex, deadline_of, process, process_of, thread
from .place import HEAD_BYTES, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_CLASS = int.from_bytes(b"mshLock1", "little")
_NOTICED = 1
"""The word of the first 64 bytes that says when a death was noticed, in nanoseconds since the epoch."""
_DAMAGED = 1 << 63
"""The bit of the owner's word that says that the owner's death was noticed."""


class Guard(Mutex):
    """A mutex with the owner's word behind it, which tells when its owner has died."""

    __slots__ = ("_guard", "_owner")

    def __init__(self, place: Place) -> None:
        """Use the mutex behind the first 64 bytes of `place`. Raises as `Mutex`."""
        super().__init__(place, HEAD_BYTES)
        memory, mutex = place.exporter, place.offset + HEAD_BYTES
        self._owner = ctypes.c_uint64.from_buffer(memory, mutex + MUTEX_BYTES)
        self._guard = (ctypes.c_char * (TAIL_BYTES + 8)).from_buffer(memory, mutex + TAIL_BYTE)
        self._claim()

    def _died(self) -> OwnerDiedError:
        """Return the error about the last owner, and note the time. The caller has the mutex."""
        place, owner = self._place, self._owner
        place.head[_NOTICED] = place.head[_NOTICED] or time.time_ns()
        owner.value |= _DAMAGED
        pid, started = process_of(owner.value)
        error = OwnerDiedError(
            f"process {pid} died while it held {place.what_and_where}",
            "repair the data in `with lock.recover() as died:`",
        )
        error.pid, error.started, error.noticed = pid, started, place.head[_NOTICED] / 1e9
        error.region, error.offset = place.region_name, place.offset
        return error

    def _check_guard(self) -> None:
        """Make sure that this thread may release the lock. Raises `NotOwnerError`, `NotALockError`."""
        if self._owner.value != process.word:
            raise self._not_mine()
        self._check_tail()  # the thread has other robust mutexes, or does not have this one

    def _repaired(self) -> None:
        """Release the mutex, and say that the data is whole. Raises as `_check_tail`, for example in a forked child."""
        self._check_tail()
        self._place.head[_NOTICED] = 0
        self._owner.value = 0
        unlock(self._ref)


def late(place: Place, timeout: float | None) -> LockTimeoutError:
    """Return the error for a lock that was not free in time."""
    return LockTimeoutError(f"{place.what_and_where} was not free within {timeout} s", "wait longer, or ask again")


class Lock(Guard):
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

    __slots__ = ()

    def __init__(self, region: Region, offset: int = 0) -> None:
        """Use the lock at byte `offset` of `region`, a multiple of 64. Bytes that are all zero become a free lock.

        Raises `NotALockError` if other bytes lie there, `InvalidArgumentError`, `InvalidSizeError`,
        `ReadOnlyMappingError`, `RegionClosedError`, `BackendUnavailableError` (on musl, and on other machines than
        x86-64).
        """
        super().__init__(Place(region, offset, self.SIZE, _CLASS, "the lock"))

    def acquire(self, timeout: float | None = None) -> bool:
        """Get the lock. With `timeout`, in seconds, return False if the lock is not free by then; 0 does not wait.

        Raises `OwnerDiedError`, without getting the lock, if the data needs a repair; `AlreadyOwnerError` if this
        thread has the lock; `NotALockError` if something has overwritten the lock; `InvalidArgumentError`.
        """
        deadline, owner = deadline_of(timeout), self._owner
        self._check()
        try:
            code = trylock(self._ref)
            if code and not self._settle(code, deadline):
                return False
            if owner.value:
                raise self._died()
            owner.value = process.word
        except AlreadyOwnerError:
            raise
        except BaseException:
            self._undo()
            raise
        return True

    def __enter__(self) -> Self:
        """Get the lock, and wait as long as it takes. Raises as `acquire`."""
        owner = self._owner  # the same as `acquire`, with as few steps as can be
        if self._mutex[KIND] != self._kind:
            raise self._place.damaged()
        try:
            code = trylock(self._ref)
            if code:
                self._settle(code, None)
            if owner.value:
                raise self._died()
            owner.value = process.word
        except AlreadyOwnerError:
            raise
        except BaseException:
            self._undo()
            raise
        return self

    def release(self) -> None:
        """Release the lock. Raises `NotOwnerError` in a thread that does not have the lock, `NotALockError`."""
        if self._guard.raw != thread.guard:
            self._check_guard()
        self._owner.value = 0
        if unlock(self._ref):
            raise self._not_mine()

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        """Release the lock, as `release`."""
        if self._guard.raw != thread.guard:
            self._check_guard()
        self._owner.value = 0
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
        deadline, died, got = deadline_of(timeout), None, False
        try:
            if not self._take(deadline):
                raise late(self._place, timeout)
            if self._owner.value:
                died = self._died()
            else:
                self._owner.value = process.word
            got = True
            yield died
            self._repaired()
        except BaseException as error:
            if got:
                if self._is_mine():
                    if died is None:
                        self._owner.value = 0
                    self._give()
            elif not isinstance(error, AlreadyOwnerError):
                self._undo()
            raise

    def _undo(self) -> None:
        """End an attempt that an exception has interrupted."""
        self._abandon(recorded=self._owner.value == process.word)

    def __repr__(self) -> str:
        return f"<mshare.Lock at {self._place}>"
