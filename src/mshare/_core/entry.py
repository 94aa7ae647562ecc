"""The file of one region: how its entry in a root is opened, its record, and whether a process is attached.

May depend on: roots, backends, linux, errors, record, procfs, typed.
"""

from __future__ import annotations

import os
import stat

from . import backends, roots
from .errors import AccessDeniedError, NotARegionError, RegionBusyError
from .linux import locks
from .linux.descriptors import Descriptor
from .procfs import FileId
from .record import ATTACHED_BYTE, RECORD_SIZE, NoRecordError, Record, RecordError
from .typed import NamedTuple


class RootEntry(NamedTuple):
    """A region found by name: the entry of its file in a root's directory. `descriptor` is an `O_PATH` descriptor of
    the file, which is not open yet."""

    name: str
    root: str
    descriptor: Descriptor
    file: FileId

    @property
    def status(self) -> os.stat_result:
        """The file's mode, owner and so on as they are now."""
        return os.fstat(self.descriptor.fd)

    @property
    def path(self) -> str:
        return os.path.join(self.root, self.name)

    @property
    def link(self) -> str:
        """A path of this very file, even if another file has the name now."""
        return f"/proc/self/fd/{self.descriptor.fd}"

    def reopen(self, access: int) -> Descriptor:
        """Open this very file. Raises `OSError`, `RegionBusyError`, and `BackendUnavailableError` without a /proc, or
        for writing if the root is mounted read-only."""
        try:
            with roots.read_only_named(self.root):
                return Descriptor(self.link, access | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise roots.no_proc() from error
        except BlockingIOError as error:
            raise RegionBusyError(
                f"the owner of {self.path} holds a lease on it (fcntl F_SETLEASE)",
                f"have uid {self.status.st_uid} give it back, or choose another name",
            ) from error

    def open(self, *, writable: bool) -> Descriptor:
        """Open the file to attach it or to look at it. Raises the errors of `reopen` and `AccessDeniedError`."""
        try:
            return self.reopen(os.O_RDWR if writable else os.O_RDONLY)
        except PermissionError as error:
            status = self.status
            raise AccessDeniedError(
                f"region {self.name!r} has mode {stat.S_IMODE(status.st_mode):04o} and belongs to uid {status.st_uid}"
                f", so uid {os.geteuid()} may not attach it {'read-write' if writable else 'at all'}",
                "attach with readonly=True if you may read it, or have its owner change the mode"
                if writable
                else "have its owner change the mode",
            ) from error

    def still_named(self) -> bool:
        """Tell whether the name still means this file."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return FileId(now.st_dev, now.st_ino) == self.file


Version = tuple[int, int, int, int]
_MOST_REMEMBERED = 4096
remembered: dict[Version, Record] = {}
"""Records, by the file and the file's state at the time of reading.

Facts: a record is written before the file has a name, and never again. Writing and truncating the file, or reusing its
inode number, change the time of change or the size. A user who may write the file can also change it through a
mapping, unseen.
Consequence: a remembered record is what any reader would find now. If an enemy may write the file, it is what we found
before and have checked.
Decision: each version of a file is read once per process."""


def version(status: os.stat_result) -> Version:
    """Return the fields that change when a file is written, truncated or replaced."""
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def read_record(name: str, fd: int, status: os.stat_result | None = None) -> Record:
    """Return the record of the open file, or the facts that its file system knows instead. The caller may pass the
    file's `status`. Raises `NotARegionError`."""
    status = status or os.fstat(fd)
    now = version(status)
    known = remembered.get(now)
    if known is not None:
        return known
    size = status.st_size
    page = os.pread(fd, RECORD_SIZE, size - RECORD_SIZE) if size > RECORD_SIZE else b""
    try:
        record = Record.decode(page, size)
    except RecordError as error:
        if isinstance(error, NoRecordError):
            for backend in backends.ALL:
                if (adopted := backend.adopt(fd, status)) is not None:
                    return adopted
        raise NotARegionError(
            f"{name!r} is not a region: {error}", "choose another name, or remove that file"
        ) from error
    if len(remembered) >= _MOST_REMEMBERED:
        remembered.clear()
    remembered[now] = record
    return record


def known_to_kernel(fd: int) -> bool:
    """Tell whether the kernel says that a process maps the open region file, even a program without our lock."""
    return any(backend.attached(fd) for backend in backends.ALL)


def is_attached(fd: int) -> bool:
    """Tell whether a process is attached to the open region file, by the file's locks and the kernel's answer."""
    return locks.is_locked(fd, ATTACHED_BYTE) or known_to_kernel(fd)
