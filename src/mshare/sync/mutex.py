"""A robust mutex in a region: how a thread gets it, keeps it in a valid state, and waits for it.
May depend on: linux, errors, place, procfs.

Facts: an exception of a signal handler, such as KeyboardInterrupt, can arrive when the C library has just locked the
mutex and Python has not seen the result yet.
Decision: the caller that is interrupted looks whether the mutex belongs to this thread, and unlocks it (`_abandon`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from contextlib import suppress
from threading import current_thread, get_native_id, local, main_thread

from .._core.errors import AlreadyOwnerError, BackendUnavailableError, InvalidArgumentError, NotOwnerError
from .._core.linux import robust
from .._core.linux.files import read_bytes
from .._core.linux.robust import (
    KIND,
    LOCK,
    MUTEX_BYTES,
    NEXT,
    PREVIOUS,
    TAIL_BYTE,
    TAIL_BYTES,
    THREAD_MASK,
    trylock,
    unlock,
)
from .._core.procfs import parse_stat_start
from .place import Place, Placed

SLICE_S = 0.05
"""The main thread waits in parts of this length, because Python runs signal handlers only between the parts."""
LONG_SLICE_S = 1.0
"""The same for other threads, which run no handlers. After each part the thread looks whether the memory is valid."""


_INCONSISTENT = (1 << 31) - 1
"""glibc's mark in the word behind the futex, between EOWNERDEAD and `consistent`."""

_START_BITS = 41
"""Bits of a process's word for its start, in hundredths of a second since the machine's start."""
_PID_BITS = 22
"""Bits for its number, enough for the largest `kernel.pid_max`. The highest bit of the word is free."""


class _Process:
    """A word that means this process, also after its number is used again. The word is never 0."""

    __slots__ = ("word",)

    def __init__(self) -> None:
        try:
            start = parse_stat_start(read_bytes("/proc/self/stat"))
        except (OSError, ValueError):  # no /proc: the word has only the number
            start = 0
        self.word = os.getpid() << _START_BITS | start & (1 << _START_BITS) - 1


class _Thread(local):
    """The bytes of a mutex that is the only one that a thread holds."""

    def __init__(self) -> None:
        try:
            self.tail = robust.only_tail()
        except OSError:  # `supported_kind` says so
            self.tail = b""
        self.guard = self.tail + process.word.to_bytes(8, "little")
        """The tail, and the owner's word that follows the mutex of a lock."""


process = _Process()
thread = _Thread()


def _after_fork_in_child() -> None:
    process.__init__()  # type: ignore[misc]
    thread.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_after_fork_in_child)


def process_of(word: int) -> tuple[int, float]:
    """Return the number of the process that a word means, and its start in seconds since the epoch, 0 if unknown."""
    number, ticks = word >> _START_BITS & (1 << _PID_BITS) - 1, word & (1 << _START_BITS) - 1
    if not ticks:
        return number, 0.0
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return number, round(time.time() - ago, 2)


def deadline_of(timeout: float | None) -> float | None:
    """Return the time of `time.monotonic` at which a wait ends, None for never. Raises `InvalidArgumentError`."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not timeout >= 0:
        raise InvalidArgumentError(f"invalid timeout {timeout!r}", "use seconds, 0 or more, or None to wait forever")
    return time.monotonic() + min(timeout, 1e9)


def left(deadline: float | None, longest: float) -> float:
    """Return the seconds until the deadline, at most `longest`; 0 or less if the time is over."""
    return longest if deadline is None else min(longest, deadline - time.monotonic())


def supported_kind() -> int:
    """Return the kind of robust mutexes. Raises `BackendUnavailableError`."""
    try:
        return robust.kind()
    except OSError as error:
        raise BackendUnavailableError(str(error.strerror), "run the program on such a system") from error


class Mutex(Placed):
    """The mutex in 40 bytes of memory. All 40 bytes may be zero at first."""

    __slots__ = ("_address", "_kind", "_mutex", "_ref", "_tail")

    def __init__(self, place: Place, at: int) -> None:
        """Use the 40 bytes from byte `at` of `place` on. Raises `NotALockError` if the bytes hold something else,
        `BackendUnavailableError`."""
        self._kind = supported_kind()
        self._place = place
        first = place.offset + at
        self._address = ctypes.addressof(place.exporter) + first
        self._ref = ctypes.byref(place.exporter, first)
        self._tail = (ctypes.c_char * TAIL_BYTES).from_buffer(place.exporter, first + TAIL_BYTE)
        self._mutex = memoryview(place.exporter).cast("B")[first : first + MUTEX_BYTES].cast("Q")
        if not any(self._mutex):
            self._mutex.cast("B").cast("I")[2 * KIND] = self._kind
        if self._mutex[KIND] != self._kind:
            raise place.damaged()

    def __del__(self) -> None:
        """Keep the memory mapped for good if a thread of this process still holds the mutex: the kernel's list of the
        thread runs through the memory."""
        with suppress(AttributeError, TypeError):  # the constructor has failed; or the interpreter has nearly ended
            if robust.is_own_thread(self._mutex[LOCK] & THREAD_MASK):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._place.exporter))

    def _claim(self) -> None:
        """Make the place one of its kind, if no process has. Raises `NotALockError` if the place is of another kind."""
        head, kind = self._place.head, self._place.kind
        if not head[0]:
            try:
                self._take(None, check=False)
                head[0] = head[0] or kind
                self._give()
            except BaseException:
                self._abandon()
                raise
        if head[0] != kind:
            raise self._place.damaged()

    def _check(self) -> None:
        if self._mutex[KIND] != self._kind or self._place.head[0] != self._place.kind:
            raise self._place.damaged()

    def _take(self, deadline: float | None, *, check: bool = True) -> bool:
        """Get the mutex; False if it is not free before `deadline`. The result of an owner's death is a usable mutex.

        Raises `AlreadyOwnerError`, `NotALockError`.
        """
        if check:
            self._check()
        code = trylock(self._ref)
        return not code or self._settle(code, deadline)

    def _attempt(self) -> bool:
        """Get the mutex if it is free. Raises `NotALockError`."""
        self._check()
        code = trylock(self._ref)
        return code != errno.EBUSY and (not code or self._settle(code, None))

    def _settle(self, code: int, deadline: float | None) -> bool:
        """Go on after a lock call that returned `code`, which is not 0, as `_take`."""
        if code == errno.EBUSY and self._is_mine():
            raise AlreadyOwnerError(f"this thread holds {self._place.what_and_where}", "release it first")
        while code == errno.EBUSY:
            seconds = left(deadline, SLICE_S if current_thread() is main_thread() else LONG_SLICE_S)
            if seconds <= 0:
                return False
            code = robust.lock_within(self._ref, seconds)
            if code == errno.ETIMEDOUT:
                if self._mutex[KIND] != self._kind:
                    raise self._place.damaged()
                code = errno.EBUSY
        if code == errno.EOWNERDEAD:
            robust.consistent(self._ref)
        elif code:
            raise self._place.damaged()
        return True

    def _abandon(self, *, recorded: bool = False) -> None:
        """Release the mutex if a lock call got it that an exception has interrupted. `recorded`: the mutex of this
        thread may be that of an earlier call."""
        if self._is_mine() and (not recorded or self._mutex[1] & _INCONSISTENT == _INCONSISTENT):
            robust.consistent(self._ref)
            self._give()

    def _is_mine(self) -> bool:
        """Tell whether this thread holds the mutex. Costs up to three system calls.

        In two PID namespaces two threads may have the same id, so the mutex must also be in this thread's list.
        """
        return self._mutex[LOCK] & THREAD_MASK == get_native_id() and self._is_linked()

    def _is_linked(self) -> bool:
        node = self._address + robust.NODE_BYTE
        return robust.links_intact(node, self._mutex[PREVIOUS], self._mutex[NEXT])

    def _give(self) -> None:
        """Release the mutex. Raises `NotOwnerError`, `NotALockError`."""
        if self._tail.raw != thread.tail:
            self._check_tail()
        if unlock(self._ref):
            raise self._not_mine()

    def _check_tail(self) -> None:
        """Make sure that this thread may unlock the mutex. Raises as `_give`."""
        if self._mutex[LOCK] & THREAD_MASK != get_native_id():
            raise self._not_mine()
        self._check()
        if not self._is_linked():
            raise self._place.damaged()

    def _not_mine(self) -> NotOwnerError:
        return NotOwnerError(
            f"this thread does not hold {self._place.what_and_where}", "release it in the thread that got it"
        )
