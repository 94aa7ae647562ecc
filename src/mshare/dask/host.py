"""A host as all of its workers see it: the turn of one process for a name, and the label of the copy.

Facts: workers of one host may be in different containers, and hosts may share an IP address or the number of a kernel.
Workers can use one copy exactly if they have the same directory of regions. flock(2) on a file of that directory is
held by one process at a time, and the kernel releases the lock when its holder dies. Other users can make files and
hard links in that directory.
Consequence: a lock file beside the regions needs no other name of the host, and no process has to clean up. But a lock
file that another user has planted could tell a worker anything.
Decision: lock files are in a directory that only this user can reach, and hold no more than JSON. The process that has
the turn writes into its lock file which load the copy comes from, and what its bytes are. It does so before the copy
gets its name. A label therefore never tells of a region that another program has made.
May depend on: names, entry, backends, linux, errors, limits, procfs, record, failures.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .._core import backends, errors, limits, names
from .._core.entry import read_record
from .._core.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    NoSpaceError,
    NotARegionError,
    RegionNotFoundError,
)
from .._core.linux import locks
from .._core.linux.descriptors import Descriptor
from .._core.procfs import FileId
from .._core.record import Record
from .failures import SourceChangedError

_PAUSE_S = 0.02
"""The time between two attempts to get the turn. The loop of the worker goes on in between."""
_LABEL_BYTES = 4096
"""The label is written in one step of one page, so that no kill leaves a half of it."""
_MOST_ARGUMENTS = 5
"""An OSError has so many. With few arguments, a failure with short texts fits into the page."""
_ERRORS = {
    kind.__name__: kind
    for kind in (*vars(builtins).values(), *vars(errors).values(), SourceChangedError)
    if isinstance(kind, type) and issubclass(kind, Exception)
}
"""The classes that an error keeps on its way to other processes. Errors of other classes become RuntimeErrors."""


class Identity(NamedTuple):
    """The identity of a region, as its file and its record tell it. No other region ever has the same."""

    dev: int
    ino: int
    created_ns: int

    @classmethod
    def of(cls, file: FileId, record: Record) -> Identity:
        """Return the identity of the region with this file and record."""
        return cls(file.dev, file.ino, record.created_ns)


class Failure(NamedTuple):
    """A load that has failed on a host."""

    load: str
    attempt: str
    """The call that asked for the load. The next call tries again."""
    kind: str
    """The name of the error's class."""
    arguments: tuple[str | int | None, ...]
    """The arguments of the class. The error's cause and traceback stay behind: they may hold memory."""

    @classmethod
    def of(cls, load: str, attempt: str, error: Exception) -> Failure:
        """Return the failure of a load with this error."""
        kind = type(error).__name__
        if type(error) is _ERRORS.get(kind):
            arguments = error.__reduce__()[1]
            if len(arguments) <= _MOST_ARGUMENTS and all(_is_plain(each) for each in arguments):
                return cls(load, attempt, kind, tuple(arguments))
        return cls(load, attempt, "RuntimeError", (f"{kind}: {error}",))

    @property
    def error(self) -> Exception:
        """A new object with each use, because many tasks may raise it."""
        return _ERRORS.get(self.kind, RuntimeError)(*self.arguments)

    def shortened(self, limit: int) -> Failure:
        """Return the failure with texts of so many characters at most."""
        return self._replace(
            arguments=tuple(
                f"{each[:limit]}…" if isinstance(each, str) and len(each) > limit else each for each in self.arguments
            )
        )


def _is_plain(argument: object) -> bool:
    return argument is None or isinstance(argument, str) or (isinstance(argument, int) and argument.bit_length() < 64)


class Label(NamedTuple):
    """The facts about a copy that its bytes do not tell."""

    load: str
    """The load that made the copy: one call of `replicate` has one load on all hosts."""
    checksum: str
    """SHA-256 of the bytes, in hexadecimal."""
    region: Identity


def _directory() -> str:
    """Return the directory of regions that every host has. Raises `BackendUnavailableError`."""
    available = backends.BASELINE.availability()
    root = backends.BASELINE.root()
    if root is None or not available.usable:
        raise BackendUnavailableError(f"this host has no place for copies: {available.reason}", available.remedy)
    return root


def host_id() -> str:
    """Return the same text in all processes that can use the same copies, and another text elsewhere."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status = os.stat(_directory())
    return f"{boot} {status.st_dev} {status.st_ino}"


def region_now(name: str) -> Identity | None:
    """Return the identity of the region that has the name now. Raises the errors of `names.find`."""
    try:
        with names.find(name) as entry, entry.open(writable=False) as fd:
            return Identity.of(entry.file, read_record(name, fd))
    except RegionNotFoundError:
        return None


class Turn:
    """The turn of this process for one name."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    def label(self) -> Label | None:
        """Return the label of the region that has the name now; None if `replicate` has not made that region."""
        try:
            region = region_now(self.name)
        except (AccessDeniedError, NotARegionError):  # a file of another user or of another program
            return None
        return next((label for label in self._read()[0] if label.region == region), None)

    def write(self, label: Label) -> None:
        """Write the label of a region that gets the name in the next step. The label of the older region stays: the
        process may die before that step."""
        older = self.label()
        self._write([label, *([] if older is None else [older])], None)

    def failure(self) -> Failure | None:
        """Return the last failure on this host, if no load has begun to give the name since."""
        return self._read()[1]

    def fail(self, failure: Failure | None) -> None:
        """Tell the other workers of this host of a failure, so that they do not read the source in vain."""
        self._write(self._read()[0], failure)

    def _write(self, labels: list[Label], failure: Failure | None) -> None:
        limit = _LABEL_BYTES
        while len(page := json.dumps([labels, failure]).encode()) > _LABEL_BYTES and failure is not None:
            limit //= 2
            failure = failure.shortened(limit)
        os.pwrite(self._fd, page.ljust(_LABEL_BYTES), 0)

    def _read(self) -> tuple[list[Label], Failure | None]:
        page = os.pread(self._fd, _LABEL_BYTES, 0)
        try:
            labels, failed = json.loads(page)
            failure = None if failed is None else Failure(failed[0], failed[1], failed[2], tuple(failed[3]))
            return [Label(load, checksum, Identity(*region)) for load, checksum, region in labels], failure
        except (ValueError, TypeError, LookupError, RecursionError):  # an empty page, or one that somebody has damaged
            return [], None


@asynccontextmanager
async def turn(name: str, check: Callable[[], None]) -> AsyncIterator[Turn]:
    """Wait until no other process of this host has the turn for the name, and give the turn.

    Calls `check` while it waits; its errors are raised here. The lock file goes with the turn if it has nothing to
    tell. Raises `BackendUnavailableError`, `NoSpaceError`, `AccessDeniedError`.
    """
    path = os.path.join(_directory(), f".mshare-dask-{os.geteuid()}")
    lock = hashlib.sha256(name.encode()).hexdigest()[:32]
    while True:
        with _opened(path, lock) as (directory, fd):
            while not locks.try_flock(fd):
                check()
                await asyncio.sleep(_PAUSE_S)
            if not _still_there(lock, directory, fd):
                continue
            held = Turn(name, fd)
            try:
                yield held
            finally:
                with suppress(OSError):  # such as that of a directory with other lock files
                    if held.label() is None and held.failure() is None:
                        os.unlink(lock, dir_fd=directory)
                        Path(path).rmdir()
            return


@contextmanager
def _opened(path: str, lock: str) -> Iterator[tuple[int, int]]:
    """Give the directory of lock files and the lock file, both open. They appear if they are not there."""
    with ExitStack() as opened:
        try:
            found = _open(path, lock, opened)
            if not os.fstat(found[1]).st_size:
                os.pwrite(found[1], bytes(_LABEL_BYTES), 0)
        except OSError as error:
            limits.reraise(error)
            if limits.is_out_of_room(error):
                raise NoSpaceError(
                    f"{path} needs a page of memory, and there is none", "free some (mshare ls)"
                ) from error
            raise _not_private(path) from error
        yield found


def _open(path: str, lock: str, opened: ExitStack) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    while True:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        with suppress(FileNotFoundError):  # another worker has just removed the empty directory
            directory = opened.enter_context(Descriptor(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
            _check_private(directory)
            fd = opened.enter_context(Descriptor.made_by(partial(os.open, dir_fd=directory), lock, flags, 0o600))
            _check_private(fd)
            return directory, fd


def _check_private(fd: int) -> None:
    """Raise PermissionError unless this is a directory or an ordinary file that only this user can reach."""
    status = os.fstat(fd)
    # An ordinary file with no name is one that another worker has just removed.
    kept = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink <= 1)
    if not kept or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError


def _not_private(path: str) -> AccessDeniedError:
    with suppress(OSError):
        owner = os.stat(path, follow_symlinks=False).st_uid
        if owner != os.geteuid():
            return AccessDeniedError(f"{path} belongs to uid {owner}", "have that user or root remove it")
    return AccessDeniedError(f"{path} is not a directory that only this user can use", "remove it")


def _still_there(lock: str, directory: int, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(lock, dir_fd=directory, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
