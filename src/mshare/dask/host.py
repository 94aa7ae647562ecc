"""A host as all of its workers see it: the turn of one process for a name, and the label of the copy.

Facts: workers of one host may be in different containers, and hosts may share an IP address or the number of a kernel.
Workers can use one copy exactly if they have the same directory of regions. flock(2) on a file of that directory is
held by one process at a time, and the kernel releases the lock when its holder dies.
Consequence: a lock file beside the regions needs no other name of the host, and no process has to clean up.
Decision: the process that has the turn writes into its lock file which load the copy comes from, and what its bytes
are. It does so before the copy gets its name. A label therefore never tells of a region that another program has made.
May depend on: names, entry, backends, linux, errors, limits, procfs, record.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from .._core import backends, limits, names
from .._core.entry import read_record
from .._core.errors import AccessDeniedError, BackendUnavailableError, NoSpaceError, RegionNotFoundError
from .._core.linux import locks
from .._core.linux.descriptors import Descriptor
from .._core.procfs import FileId
from .._core.record import Record

_PAUSE_S = 0.02
"""The time between two attempts to get the turn. The loop of the worker goes on in between."""
_LABEL_BYTES = 4096
"""The label is written in one step of one page, so that no kill leaves a half of it."""


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
    pickled: bytes
    """The error, without its cause and its traceback, which may hold memory or things that cannot be pickled."""

    @classmethod
    def of(cls, load: str, attempt: str, error: Exception) -> Failure:
        """Return the failure of a load with this error."""
        try:
            kind, arguments, *state = cast(tuple[Any, ...], error.__reduce__())
            bare = kind(*arguments)
            for attributes in state:
                bare.__dict__.update(attributes)
            pickled = pickle.dumps(bare)
            pickle.loads(pickled)
        except Exception:  # an error of a library that cannot be pickled
            pickled = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return cls(load, attempt, pickled)

    @property
    def error(self) -> Exception:
        """A new object with each use, because many tasks may raise it."""
        error: Exception = pickle.loads(self.pickled)
        return error


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
        region = region_now(self.name)
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
        failed = None if failure is None else [failure.load, failure.attempt, failure.pickled.hex()]
        page = json.dumps([labels, failed]).encode()
        if len(page) > _LABEL_BYTES:  # a very long message
            page = json.dumps([labels, None]).encode()
        os.pwrite(self._fd, page.ljust(_LABEL_BYTES), 0)

    def _read(self) -> tuple[list[Label], Failure | None]:
        page = os.pread(self._fd, _LABEL_BYTES, 0)
        try:
            labels, failed = json.loads(page)
            failure = None if failed is None else Failure(failed[0], failed[1], bytes.fromhex(failed[2]))
            return [Label(load, checksum, Identity(*region)) for load, checksum, region in labels], failure
        except (ValueError, TypeError, LookupError, RecursionError):  # an empty page, or one that somebody has damaged
            return [], None


@asynccontextmanager
async def turn(name: str, check: Callable[[], None]) -> AsyncIterator[Turn]:
    """Wait until no other process of this host has the turn for the name, and give the turn.

    Calls `check` while it waits; its errors are raised here. The lock file goes with the turn if it has nothing to
    tell. Raises `BackendUnavailableError`, `NoSpaceError`, `AccessDeniedError`.
    """
    path = os.path.join(_directory(), f".mshare-dask-{os.geteuid()}-{hashlib.sha256(name.encode()).hexdigest()[:32]}")
    while True:
        with _opened(path) as fd:
            while not locks.try_flock(fd):
                check()
                await asyncio.sleep(_PAUSE_S)
            if not _still_there(path, fd):
                continue
            held = Turn(name, fd)
            try:
                yield held
            finally:
                with suppress(OSError):  # such as NotARegionError
                    if held.label() is None and held.failure() is None:
                        os.unlink(path)
            return


def _opened(path: str) -> Descriptor:
    try:
        file = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        status = os.fstat(file.fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError
        if not status.st_size:
            os.pwrite(file.fd, bytes(_LABEL_BYTES), 0)
    except OSError as error:
        limits.reraise(error)
        if limits.is_out_of_room(error):
            raise NoSpaceError(f"{path} needs a page of memory, and there is none", "free some (mshare ls)") from error
        raise AccessDeniedError(f"{path} cannot be used as a lock file", "remove that file") from error
    return file


def _still_there(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
