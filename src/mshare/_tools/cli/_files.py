"""Reading and writing files for `cp`: sizes known or not, all or nothing. May depend on: errors, table."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._core.errors import InvalidSizeError, NoSpaceError
from ..._core.units import format_size
from ..table import printable
from ._progress import Step

CHUNK = 4 << 20

Reader = Callable[[memoryview, int], int]
"""Called with where to put the next bytes, and how many came before; returns how many it put there, 0 at the end."""


def reader_of_fd(fd: int) -> Reader:
    """Return a reader of an open file from where it stands."""
    return lambda into, _: os.readv(fd, [into])


def reader_of_view(view: memoryview) -> Reader:
    """Return a reader of memory."""

    def read(into: memoryview, start: int) -> int:
        count = min(len(into), len(view) - start)
        into[:count] = view[start : start + count]
        return count

    return read


def fill_exactly(view: memoryview, read: Reader, source: str, step: Step) -> None:
    """Fill `view` from `read`. Raises `InvalidSizeError` if the source has fewer or more bytes than that."""
    done, size = 0, len(view)
    while done < size:
        with view[done : done + CHUNK] as part:
            count = read(part, done)
        if not count:
            raise InvalidSizeError(f"{source} ended after {done} bytes, {size} were expected", "check the source")
        done += count
        step(done, size)
    if read(memoryview(bytearray(1)), done):
        raise InvalidSizeError(f"{source} has more than the {size} bytes expected", "check the source, or --size")


@contextmanager
def sized_source(source: str, size: int | None, spooling: Step) -> Iterator[tuple[int, int]]:
    """Give a descriptor and the bytes it will yield: the file's own size, or `size`, or what a pipe turns out to hold.

    Raises `InvalidSizeError` for an empty source.
    """
    fd = os.dup(0) if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), source)
        if size is not None:
            yield fd, size
        elif stat.S_ISREG(status.st_mode):
            yield fd, _not_empty(status.st_size - os.lseek(fd, 0, os.SEEK_CUR), source)
        else:
            with tempfile.TemporaryFile(buffering=0) as spool:
                length = _spool(fd, spool.fileno(), spooling)
                os.lseek(spool.fileno(), 0, os.SEEK_SET)
                yield spool.fileno(), _not_empty(length, source)
    finally:
        os.close(fd)


def shown(source: str) -> str:
    """Return what to call a source in a message."""
    return "stdin" if source == "-" else printable(source)


def _not_empty(size: int, source: str) -> int:
    if size <= 0:
        raise InvalidSizeError(f"{shown(source)} is empty", "a region has at least 1 byte")
    return size


def _spool(fd: int, spool_fd: int, step: Step) -> int:
    done = 0
    while chunk := os.read(fd, CHUNK):
        try:
            write_all(spool_fd, memoryview(chunk), lambda *_: None)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise NoSpaceError(
                f"the spool in {tempfile.gettempdir()} is full after {format_size(done)}",
                "set TMPDIR to a larger file system, or say the size (--size), which needs no spool",
            ) from error
        done += len(chunk)
        step(done, done)
    return done


def write_all(fd: int, view: memoryview, step: Step) -> None:
    """Write all of `view`, however little the kernel takes at once."""
    done, size = 0, len(view)
    while done < size:
        with view[done : done + CHUNK] as part:
            done += os.write(fd, part)
        step(done, size)


@contextmanager
def target(name: str, mode: int) -> Iterator[int]:
    """Give a descriptor to write to. A file gets its name when the block ends well, and replaces one that has it; it
    has the bits of `mode` that the umask allows. `-` is stdout; a device or pipe is written to as it is."""
    path = Path(os.path.realpath(name))
    if name == "-":
        yield 1
    elif path.exists() and not path.is_file():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        yield from _replacing(path, mode)


def _replacing(path: Path, mode: int) -> Iterator[int]:
    """A file without a name until it is complete, where the file system can do that: then even SIGKILL leaves none."""
    temporary = path.parent / f".{secrets.token_hex(8)}.mshare"
    mode &= 0o777
    try:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
        named = False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        named = True
    try:
        yield fd
        os.fsync(fd)
        if not named:
            directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
            try:  # without dst_dir_fd Python calls link(2), which does not follow the symlink in /proc
                os.link(f"/proc/self/fd/{fd}", temporary.name, dst_dir_fd=directory, follow_symlinks=True)
                named = True
            finally:
                os.close(directory)
        temporary.rename(path)
        named = False
    finally:
        os.close(fd)
        if named:
            temporary.unlink()
