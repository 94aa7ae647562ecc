"""Open-file-description locks on single bytes of a file. May depend on: nothing.

Facts: an OFD lock belongs to the open file description, not to a process. `mmap` holds a reference to it, `fork`
shares it. The kernel drops the lock with the last reference (`locks_remove_file` in `__fput`), whatever killed
the holders. A read lock needs a descriptor open for reading, a write lock one open for writing.
Consequence: a lock taken before `mmap` lives exactly as long as the mapping and its copies in forked children, even
after the descriptor is closed; and somebody with read-only access can never keep others from taking read locks.
Decision: one read lock per attachment is our liveness; no descriptor stays open, no process has to clean up.
Source: fcntl(2), "Open file description locks"; Linux 3.15 (commit 5d50ffd7c31d).
"""

from __future__ import annotations

import errno
import fcntl
import struct
from functools import cache

_FLOCK = struct.Struct("@hhqqi4x")


@cache
def _request(kind: int, offset: int) -> bytes:
    return _FLOCK.pack(kind, 0, offset, 1, 0)


def _try_lock(fd: int, kind: int, offset: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(kind, offset))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def try_read_lock(fd: int, offset: int) -> bool:
    """Take a read lock on the byte at `offset`; False if somebody holds a write lock on it. Never waits."""
    return _try_lock(fd, fcntl.F_RDLCK, offset)


def try_write_lock(fd: int, offset: int) -> bool:
    """Take a write lock on the byte at `offset`; False if somebody holds any lock on it. Never waits.

    Raises `OSError` (EBADF) unless `fd` is open for writing.
    """
    return _try_lock(fd, fcntl.F_WRLCK, offset)


def try_flock(fd: int) -> bool:
    """Take the whole file or directory for this open file description, by flock(2); False if somebody else has it.
    The only lock a directory can have."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(fd: int, offset: int) -> bool:
    """Tell whether another open file description holds a lock on the byte at `offset`. Takes none itself."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, offset))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
