"""Reading and writing files for commands: sizes known or not, all or nothing. May depend on: _progress, table, errors,
units."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import F_GETFL, fcntl
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


def reader_of_region(fd: int, size: int) -> Reader:
    """Return a reader of the first `size` bytes of a region's file. It reads holes as zeros and gives them no memory,
    which a look through a mapping would do."""
    return lambda into, start: os.preadv(fd, [into[: size - start]], start) if start < size else 0


def _reader_of_bytes(content: bytes) -> Reader:
    def read(into: memoryview, start: int) -> int:
        part = content[start : start + len(into)]
        into[: len(part)] = part
        return len(part)

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
def sized_source(source: str, size: int | None, spooling: Step) -> Iterator[tuple[Reader, int]]:
    """Give a reader and the number of its bytes: `size`, the file's own size, or what a source turns out to hold.

    The kernel gives files of /proc the size 0 and files of /sys the size of a page, whatever they hold. The size of a
    file is therefore believed only above `CHUNK`. Raises `InvalidSizeError` for an empty source.
    """
    fd = os.dup(0) if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), source)
        if size is None and stat.S_ISREG(status.st_mode):
            rest = status.st_size - os.lseek(fd, 0, os.SEEK_CUR)
            size = rest if rest > CHUNK else None
        if size is not None:
            yield reader_of_fd(fd), size
            return
        start = _read_up_to(fd, CHUNK)
        if len(start) < CHUNK:
            yield _reader_of_bytes(start), _not_empty(len(start), source)
            return
        with tempfile.TemporaryFile(buffering=0) as spool:
            length = _spool(start, fd, spool.fileno(), spooling)
            os.lseek(spool.fileno(), 0, os.SEEK_SET)
            yield reader_of_fd(spool.fileno()), length
    finally:
        os.close(fd)


def shown(source: str) -> str:
    """Return what to call a source in a message."""
    return "stdin" if source == "-" else printable(source)


def _not_empty(size: int, source: str) -> int:
    if size <= 0:
        raise InvalidSizeError(f"{shown(source)} is empty", "a region has at least 1 byte")
    return size


def _read_up_to(fd: int, most: int) -> bytes:
    """Return what can be read before the end, or the first `most` bytes."""
    found = bytearray()
    while len(found) < most and (part := os.read(fd, most - len(found))):
        found += part
    return bytes(found)


def _spool(start: bytes, fd: int, spool_fd: int, step: Step) -> int:
    """Write `start` and the rest of `fd` into the spool, and return how many bytes there are."""
    done, chunk = 0, start
    while chunk:
        try:
            write_all(spool_fd, memoryview(chunk))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise NoSpaceError(
                f"the spool in {tempfile.gettempdir()} is full after {format_size(done)}",
                "set TMPDIR to a larger file system, or say the size (--size), which needs no spool",
            ) from error
        done += len(chunk)
        step(done, done)
        chunk = os.read(fd, CHUNK)
    return done


def write_all(fd: int, view: memoryview) -> None:
    """Write all of `view`, however little the kernel takes at once."""
    while view:
        view = view[os.write(fd, view) :]


def copy_region(source: int, size: int, fd: int, step: Step) -> None:
    """Write the first `size` bytes of a region's file to `fd`. Holes become holes where `fd` can have them, else zeros.

    Reading a file gives its holes no memory. A look through a mapping would, and on a full file system it would fail.
    """
    skips = _can_skip(fd)
    buffer, zeros = memoryview(bytearray(min(size, CHUNK))), memoryview(bytes(min(size, CHUNK)))
    done = 0
    while done < size:
        data = _seek_data(source, done, size)
        while done < data:
            part = data - done if skips else min(data - done, CHUNK)
            if skips:
                os.lseek(fd, part, os.SEEK_CUR)
            else:
                write_all(fd, zeros[:part])
            done += part
            step(done, size)
        end = min(size, os.lseek(source, done, os.SEEK_HOLE)) if done < size else size
        while done < end:
            count = os.preadv(source, [buffer[: end - done]], done)
            if not count:
                raise InvalidSizeError(f"the region's file ended after {done} bytes", "somebody has cut it")
            write_all(fd, buffer[:count])
            done += count
            step(done, size)
    if skips:
        os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))


def _can_skip(fd: int) -> bool:
    """Tell whether seeking forward in `fd` leaves zeros: it stands at the end of a file, and does not append."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or fcntl(fd, F_GETFL) & os.O_APPEND:
        return False
    return os.lseek(fd, 0, os.SEEK_CUR) == status.st_size


def _seek_data(fd: int, start: int, size: int) -> int:
    """Return where the first data at or after `start` begins; `size` if there are only holes."""
    try:
        return min(size, os.lseek(fd, start, os.SEEK_DATA))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


@contextmanager
def target(name: str, mode: int) -> Iterator[int]:
    """Give a descriptor to write to. A file gets its name when the block ends well, and replaces one that has it; it
    has the bits of `mode` that the umask allows. `-` is stdout; a device or pipe is written to as it is.

    A name that means a descriptor of this process (/dev/stdout, /dev/fd/N, `>(command)`) gives that descriptor: what is
    written goes where the descriptor stands, or to the end of a file that is appended to.
    """
    number = _descriptor_meant(name)
    path = Path(os.path.realpath(name))
    if number is not None:
        if not _is_open_for_writing(number):
            raise OSError(errno.EBADF, "not open for writing", name)
        sys.stdout.flush()
        yield number
    elif path.exists() and not path.is_file():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        yield from _replacing(path, mode)


def is_stdout(name: str) -> bool:
    """Tell whether writing to `name` writes to stdout, which then has no room for a message."""
    return _descriptor_meant(name) == 1


def _is_open_for_writing(number: int) -> bool:
    try:
        return fcntl(number, F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        return False


def _descriptor_meant(name: str) -> int | None:
    """Return the number of this process's descriptor that `name` means: 1 for `-`, N for a path that leads to
    /proc/self/fd/N. None for any other path."""
    if name == "-":
        return 1
    own = {os.path.realpath("/proc/self/fd"), os.path.realpath("/proc/thread-self/fd")}
    path = Path(name)
    for _ in range(40):  # as many links as the kernel follows
        parent = Path(os.path.realpath(path.parent))
        if str(parent) in own and path.name.isdecimal():
            return int(path.name)
        try:
            path = parent / (parent / path.name).readlink()
        except OSError:
            return None
    return None


def _replacing(path: Path, mode: int) -> Iterator[int]:
    """A file without a name until it is complete, where the file system can do that: then even SIGKILL leaves none."""
    temporary = path.parent / f".{secrets.token_hex(8)}.mshare"
    mode &= 0o777
    try:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
        named = False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise OSError(error.errno, error.strerror, str(path)) from None
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


def write(path: str, content: bytes) -> None:
    """Put `content` into the file `path`, as `target` does, with the rights of any new file."""
    with target(path, 0o666) as fd:
        write_all(fd, memoryview(content))
