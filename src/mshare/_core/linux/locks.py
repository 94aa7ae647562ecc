"""Open-file-description locks on single bytes of a file. May depend on: nothing.

Facts: an OFD lock belongs to the open file description, not to a process. `mmap` holds a reference to the description,
and `fork` shares the description. The kernel drops the lock with the last reference (`locks_remove_file` in `__fput`),
in whatever way the holders died. A read lock needs a descriptor open for reading, a write lock one open for writing.
Consequence: a lock taken before `mmap` lives exactly as long as the mapping and its copies in forked children, even
after the descriptor is closed. A process with read-only access can never keep others from taking read locks.
Decision: one read lock per attachment shows that the attachment lives. No descriptor stays open, and no process has to
clean up.
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
    """Take a read lock on the byte at `offset`; False if another description holds a write lock. Never waits."""
    return _try_lock(fd, fcntl.F_RDLCK, offset)


def try_write_lock(fd: int, offset: int) -> bool:
    """Take a write lock on the byte at `offset`; False if another description holds any lock. Never waits.

    Raises `OSError` (EBADF) unless `fd` is open for writing.
    """
    return _try_lock(fd, fcntl.F_WRLCK, offset)


def try_flock(fd: int) -> bool:
    """Take the whole file or directory for this open file description, by flock(2); False if another one has it. A
    directory can have no other lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(fd: int, offset: int) -> bool:
    """Tell whether another open file description holds a lock on the byte at `offset`. Takes no lock itself."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, offset))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
