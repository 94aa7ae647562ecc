"""Handles: descriptors of regions, with the rights that the kernel ties to them.

May depend on: limits, linux, errors, units, record, entry, names.

A descriptor keeps a region alive, with a name or without. The receiver needs nothing else, because the file has the
record. The rights of a handle are a property of the open file, not of this object: another program that gets the
descriptor can do no more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import entry, limits, names
from .errors import AccessDeniedError, BackendUnavailableError, NotARegionError, RegionClosedError, RegionNotFoundError
from .linux import ioctl, libc, memfd
from .linux.descriptors import Descriptor
from .record import Record
from .units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_FIXED_SIZE = memfd.SHRINK | memfd.GROW
_SEALED = _FIXED_SIZE | memfd.WRITE
_MAP_ONLY = _FIXED_SIZE | memfd.FUTURE_WRITE | memfd.SEAL


class Handle:
    """An open descriptor of a region. The handle keeps the region alive, and its holder can attach the region.

    A handle has all rights with which its descriptor was opened: the holder can for example seal the region, and make
    further handles. A *map-only handle* has none of these rights: the kernel lets the holder map the region and nothing
    more. A handle travels by `send_handle`, by `multiprocessing` (as an argument, through a `Queue`), by inheritance
    (`pass_fds=[handle.fileno()]` and `Handle.from_fd` there), and by `Handle.from_process`.
    """

    def __init__(self, file: Descriptor) -> None:
        """Take over an open file. Raises `NotARegionError`, and closes the file, if it is not a region's."""
        try:
            status = os.fstat(file.fd)
            if not stat.S_ISREG(status.st_mode):
                raise NotARegionError("the descriptor is of no ordinary file", "send a region's handle")
            self._record = entry.read_record("descriptor", file.fd, status)
        except OSError as error:
            file.close()
            if isinstance(error, NotARegionError):
                raise
            raise NotARegionError(
                f"the descriptor is of no region: {os.strerror(error.errno or 0)}", "send a region's handle"
            ) from error
        self._file: Descriptor | None = file.keep()

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over descriptor number `fd`, inherited from the program that executed this one. The descriptor then
        belongs to the handle. A descriptor that is not a region's is closed (`NotARegionError`)."""
        os.set_inheritable(fd, False)
        return cls(Descriptor.made_by(int, fd))

    @classmethod
    @limits.named
    def from_process(cls, pid: int, fd: int) -> Self:
        """Return a duplicate of descriptor number `fd` of another process. The caller needs the right to ptrace it.

        Raises `OSError` (EPERM, ESRCH, EBADF), `NotARegionError`.
        """
        with Descriptor.made_by(os.pidfd_open, pid) as pidfd:
            return cls(Descriptor.made_by(libc.pidfd_getfd, pidfd, fd))

    def fileno(self) -> int:
        """Return the descriptor's number. Raises `RegionClosedError`."""
        if self._file is None:
            raise RegionClosedError("the handle is closed", "take another one")
        return self._file.fd

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._file is None

    @property
    def record(self) -> Record:
        """The region's record."""
        return self._record

    @property
    def size(self) -> int:
        """Bytes of the region."""
        return self._record.size_bytes

    @property
    def addr(self) -> int:
        """The address at which every process attaches the region."""
        return self._record.addr

    @property
    def backend(self) -> str:
        """Name of the backend that holds the region."""
        return self._record.backend

    @property
    def readonly(self) -> bool:
        """True if the region cannot be attached read-write through this handle."""
        fd = self.fileno()
        opened_readonly = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        return opened_readonly or bool(memfd.seals(fd) & (memfd.WRITE | memfd.FUTURE_WRITE)) or is_sealed(fd)

    @property
    def sealed(self) -> bool:
        """True if nobody can ever write to the region again, or change its size."""
        return is_sealed(self.fileno())

    @limits.named
    def duplicate(self) -> Self:
        """Return another handle with the same rights, which is closed separately."""
        return type(self)(Descriptor.made_by(os.dup, self.fileno()))

    @limits.named
    def map_only(self, *, readonly: bool = True) -> Handle:
        """Return a handle that can map the region and nothing more. Its holder cannot resize the region, punch holes,
        change protection, seal the region, or get more rights in any way (/proc/self/fd, `dup`, `mprotect`), not even
        as root.

        - `readonly=True` on a memfd: from then on nobody can make a new writable mapping, not even by this handle.
          Existing mappings, such as the creator's, stay writable. The region cannot be sealed afterwards.
        - `readonly=False`: msharefs only. On other backends a holder with the right to write may also punch holes.
        - On msharefs nothing changes for anybody else.

        Raises `BackendUnavailableError` if the kernel cannot enforce these limits, `AccessDeniedError`.
        """
        fd = self.fileno()
        if ioctl.region_facts(fd) is not None:
            return Handle(self._map_only_of_module(readonly))
        if not readonly:
            raise BackendUnavailableError(
                f"a handle that can write but not punch holes: no kernel enforces that on backend {self.backend}",
                "use map_only(readonly=True)",
            )
        have = memfd.seals(fd)
        if have & _SEALED != _SEALED and have & _MAP_ONLY != _MAP_ONLY:
            if have & memfd.SEAL:
                raise BackendUnavailableError(
                    f"files on {self.backend} that have or can have a name: users who may open them may reopen them",
                    "use create_anonymous(size), whose memory can be sealed",
                )
            memfd.add_seals(fd, _MAP_ONLY)
        return Handle(Descriptor(f"/proc/self/fd/{fd}", os.O_RDONLY))

    def _map_only_of_module(self, readonly: bool) -> Descriptor:
        try:
            return ioctl.map_only(self.fileno(), writable=not readonly)
        except PermissionError as error:
            raise AccessDeniedError("the region is sealed: nobody can write to it", "use readonly=True") from error
        except OSError as error:
            if error.errno == errno.EBADF:
                raise AccessDeniedError("this handle may not write", "use map_only(readonly=True)") from error
            if error.errno == errno.ENOTTY:
                raise AccessDeniedError("this handle is map-only", "use duplicate()") from error
            raise

    def close(self) -> None:
        """Close the descriptor. Attachments stay. A second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the handle for `multiprocessing`, which duplicates the descriptor into the process that unpickles.
        A pickle works once: a pickle in a file, or for two readers, does not."""
        from multiprocessing import reduction

        return _rebuild, (reduction.DupFd(self.fileno()),)

    def __repr__(self) -> str:
        if self.closed:
            return "<mshare.Handle closed>"
        access = " read-only" if self.readonly else ""
        return f"<mshare.Handle {self.fileno()} {format_size(self.size)} {self.backend}{access}>"


def _rebuild(duplicate: object) -> Handle:
    return Handle(Descriptor.made_by(duplicate.detach))  # type: ignore[attr-defined]


def fix_size(fd: int) -> None:
    """Fix the size of our file for good, if the file can be sealed, so that its users never get SIGBUS."""
    if not memfd.seals(fd) & memfd.SEAL:
        memfd.add_seals(fd, _FIXED_SIZE)


def of_named(name: str, file: object, *, writable: bool) -> Handle:
    """Return a handle of the region `name`, if the name still means `file`. Raises `RegionNotFoundError`."""
    with names.find(name) as entry:
        if entry.file != file:
            raise RegionNotFoundError(f"region {name!r} has lost its name", "take handles while it has one")
        return Handle(entry.open(writable=writable))


def can_seal(fd: int) -> bool:
    """Tell whether a file of this kind can be sealed, by this kind of handle."""
    facts = ioctl.region_facts(fd)
    if facts is not None:
        return not facts.flags & ioctl.MAP_ONLY
    return not memfd.seals(fd) & memfd.SEAL


def is_sealed(fd: int) -> bool:
    """Tell whether nobody can ever write to an open file again, or change its size."""
    facts = ioctl.region_facts(fd)
    if facts is not None:
        return bool(facts.flags & ioctl.SEALED)
    return memfd.seals(fd) & _SEALED == _SEALED


def seal_file(fd: int) -> None:
    """Make an open file read-only for good, and fix its size. Raises `OSError`: EPERM if the file cannot be sealed;
    EBUSY on a memfd while writable mappings exist, on msharefs while pages are pinned."""
    if ioctl.region_facts(fd) is not None:
        ioctl.seal(fd)
    else:
        memfd.add_seals(fd, _SEALED | memfd.SEAL)
