"""Descriptors, most of them for one call, and the lock that keeps forks and threads apart. May depend on: held.

Facts: a forked child inherits every descriptor, also those of other threads, and nobody in the child will ever close
the latter. Our descriptors carry locks that live as long as any copy does.
Consequence: without care, a fork during another thread's `attach` leaves a region attached as long as the child lives.
A fork during `gc` leaves a region locked.
Decision: every descriptor is opened here. The child closes the descriptors of threads that it does not have.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from sys import is_finalizing

from .held import give_back, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

lock = threading.RLock()
"""Held over every fork, and while a descriptor is opened or closed, or a mapping is made or dropped. A child therefore
never inherits one that is not in a table. Reentrant, because a garbage collection inside may drop a mapping."""


def reclaim_lock() -> None:
    """Take `lock` away from a thread that will never run again, when the interpreter ends.

    Facts: at its end the interpreter stops all other threads for good, even threads that hold a lock.
    Consequence: a finalizer that waits for `lock` may wait forever.
    Decision: a caller that finds the interpreter ending and `lock` taken makes `lock` new. Call this before each use.
    """
    if is_finalizing():
        if lock.acquire(blocking=False):
            lock.release()
        else:
            lock._at_fork_reinit()  # type: ignore[attr-defined]


_open: dict[int, tuple[int, list[int]]] = {}
"""Lists that hold our open descriptors, by the id() of the list, each with its thread. Protected by `lock`."""


class Descriptor:
    """An open file, closed by `close`, at the end of a `with` block (which gives its number), or with this object.

    This object owns a list that holds the number (see `held`).
    """

    _held: list[int] = []  # noqa: RUF012 - for `close`, when the constructor was interrupted; never changed

    def __init__(self, path: str, flags: int) -> None:
        """Open `path`, never inherited by `exec`. Raises `OSError`."""
        self._make(os.open, path, flags | os.O_CLOEXEC, 0o600)

    @classmethod
    def made_by(cls, make: Callable[..., int], *arguments: object) -> Self:
        """Return the descriptor that `make` returns; safe from interrupts as far as `make` is written in C."""
        made = cls.__new__(cls)
        made._make(make, *arguments)
        return made

    def _make(self, make: Callable[..., int], *arguments: object) -> None:
        held: list[int] = []
        self._held = held
        reclaim_lock()
        with lock:
            number = take(held, make, arguments)
            _open[id(held)] = threading.get_ident(), held  # not before: what fails to open is nothing to remember
            self.fd: int = number

    def keep(self) -> Self:
        """Let the descriptor live beyond the call, also in children that other threads fork."""
        with lock:
            _open.pop(id(self._held), None)
        return self

    def close(self) -> None:
        """Close the descriptor now. A second call does nothing."""
        held = self._held
        reclaim_lock()
        with lock:
            give_back(held, os.close)
            _open.pop(id(held), None)

    def __del__(self) -> None:
        if self._held and _open is not None:  # at the very end of the interpreter, the names of this module are gone
            self.close()

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        self.close()


def _after_fork_in_child() -> None:
    for thread, held in list(_open.values()):
        if thread != threading.get_ident():
            while held:
                os.close(held.pop())
    try:
        lock.release()
    except RuntimeError:
        # Facts: a signal handler that raises ends the wait for the lock, and the fork goes on without the lock.
        # Consequence: the lock's owner may be a thread that the child does not have. Decision: make the lock new, as
        # `threading` does.
        lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)
