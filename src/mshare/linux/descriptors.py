"""Descriptors that live for one call, and the lock that keeps forks and threads apart. May depend on: nothing.

Facts: a forked child inherits every descriptor, also those that another thread has open just then, and nobody in the
child will ever close them. Ours carry locks that live as long as any copy does.
Consequence: without care, a fork during another thread's `attach` leaves a region attached, and one during `gc`
leaves it locked, for as long as the child lives.
Decision: every descriptor is opened here; the child closes those of threads it does not have.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

lock = threading.RLock()
"""Held over every fork, and while a descriptor is opened or closed or a mapping made or dropped, so that a child never
inherits one that is not in a table. Reentrant, because a garbage collection inside may drop a mapping."""

_open: dict[int, int] = {}
"""Our open descriptors, and the thread each belongs to. Protected by `lock`."""


def open_fd(path: str | Path, flags: int) -> int:
    """Open `path` (never inherited by `exec`) and return the descriptor, for `close_fd`. Raises `OSError`."""
    with lock:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _open[fd] = threading.get_ident()
        return fd


def close_fd(fd: int) -> None:
    """Close what `open_fd` opened."""
    with lock:
        del _open[fd]
        os.close(fd)


@contextmanager
def opened(path: str | Path, flags: int) -> Iterator[int]:
    """`open_fd`, for a `with` statement."""
    fd = open_fd(path, flags)
    try:
        yield fd
    finally:
        close_fd(fd)


def _after_fork_in_child() -> None:
    for fd, thread in list(_open.items()):
        if thread != threading.get_ident():
            del _open[fd]
            os.close(fd)
    lock.release()


os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)
