"""Every error mshare raises: one class per cause, each an `OSError` with its `errno`.

class                    errno       also a             cause
-----------------------  ----------  -----------------  ----------------------------------------------------------
InvalidNameError         EINVAL      ValueError         a region name that is empty, too long, or could leave the root
InvalidSizeError         EINVAL      ValueError         a size or length that is not a usable number of bytes
InvalidAddressError      EINVAL      ValueError         an address that is unaligned or outside user space
InvalidArgumentError     EINVAL      ValueError         open flags, a mode or another argument is not valid
RegionExistsError        EEXIST      FileExistsError    the name is taken
RegionNotFoundError      ENOENT      FileNotFoundError  no region has that name
AmbiguousNameError       ENOTUNIQ    -                  files under two roots have that name
NotARegionError          EINVAL      -                  something else (symlink, FIFO, foreign file) has that name
AccessDeniedError        EACCES      PermissionError    the region's mode or owner does not let this process in
ReadOnlyMappingError     EACCES      PermissionError    writing was asked of a mapping this process holds read-only
AddressTakenError        EADDRINUSE  -                  another mapping of this process lies in the way
NoSpaceError             ENOSPC      -                  the region does not fit into memory, file system or pool
RegionBusyError          EBUSY       -                  live processes are attached to it
BackendUnavailableError  EOPNOTSUPP  -                  a backend asked for by name cannot be used here
ModuleBuildError         ENOEXEC     -                  the kernel module does not compile for this kernel
ViewsAliveError          EBUSY       BufferError        a memoryview or array still looks into the region
RegionClosedError        EBADF       ValueError         the `Region` or `Handle` object was closed before
NotAHandleError          EBADMSG     -                  what came over a socket is not one handle of a region
DescriptorLimitError     EMFILE      -                  the process (ENFILE: the machine) may have no more open files
NotSealedError           EPERM       PermissionError    a region that was to be sealed is not
NotASnapshotError        EBADMSG     -                  a file is not a snapshot of `mshare scan`, cut, or too new
MissingExtraError        ENOPKG      -                  a package of an optional extra is not installed
OwnerDiedError           EOWNERDEAD  -                  the owner of a lock ended before it released the lock
NotOwnerError            EPERM       RuntimeError       a lock was to be released by a thread that does not hold it
AlreadyOwnerError        EDEADLK     RuntimeError       a thread asked for a lock that it holds
LockTimeoutError         ETIMEDOUT   TimeoutError       a lock was not free within the time given
NotALockError            EBADMSG     -                  the bytes at an offset are not the lock that was expected there

Each of these is raised by one part of mshare only, and is defined there:

class              errno       also a             defined in          cause
-----------------  ----------  -----------------  ------------------  ------------------------------------------------
WrongDataError     EIO         -                  `demo.flights`      the data is not the data that the demo needs
DemoFailedError    EIO         -                  `demo.story`        something that mshare promises did not happen
StuckError         ETIMEDOUT   ChildProcessError  `lab.fleet`         clients of the lab, or their parent, have stopped
ChildEndedError    ECHILD      ChildProcessError  `measure.child`     a process that mshare started ended too early
CannotListenError  EADDRINUSE  -                  `exporter.server`   the exporter cannot listen at the address
LibraryBuildError  ENOEXEC     -                  `preload.library`   the preload library does not compile
NotAnArrayError    EBADMSG     -                  `numpy`             a region holds no arrays, or damaged ones
NotATableError     EBADMSG     -                  `arrow`             a region holds no table, or a damaged one
NotTensorsError    EBADMSG     -                  `torch`             a region or file holds no tensors, or damaged ones
DeviceError        ENODEV      -                  `torch`             torch cannot use a device, or pin memory for it
ReplicationError   EIO         -                  `dask`              some hosts of a cluster did not do what was asked
SourceChangedError  ESTALE     -                  `dask`              two reads of one source gave different bytes
UnsuitableProgramError  EOPNOTSUPP  -             `preload.program`   the loader would not preload into the program

Every message ends with what the caller can do. Pure. May depend on: nothing.
"""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class MshareError(OSError):
    """Base of all errors of this library. `errno` is set; `hint` is what the caller can do."""

    code: ClassVar[int] = _errno.EIO

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(self.code, f"{problem}: {hint}")
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}: {self.hint}"

    def __reduce__(self) -> tuple[type[MshareError], tuple[str, str], dict[str, int | None]]:
        return type(self), (self.problem, self.hint), {"errno": self.errno}


class InvalidNameError(MshareError, ValueError):
    """A region name that is not 1 to 255 bytes of UTF-8 without `/`, NUL or a leading dot."""

    code = _errno.EINVAL


class InvalidSizeError(MshareError, ValueError):
    """A size or length that is zero, negative, absurd, or not the region's."""

    code = _errno.EINVAL


class InvalidAddressError(MshareError, ValueError):
    """An address that is not aligned for the backend or not in user space."""

    code = _errno.EINVAL


class InvalidArgumentError(MshareError, ValueError):
    """Open flags, a mode or another argument that has no meaning here."""

    code = _errno.EINVAL


class RegionExistsError(MshareError, FileExistsError):
    """The name is taken, by a region or by something else."""

    code = _errno.EEXIST


class RegionNotFoundError(MshareError, FileNotFoundError):
    """No region of that name under any root."""

    code = _errno.ENOENT


class AmbiguousNameError(MshareError):
    """Files under two roots have that name, and not exactly one of them belongs to this process's user."""

    code = _errno.ENOTUNIQ


class NotARegionError(MshareError):
    """The name belongs to something else than a region: a symlink, FIFO, directory, or another program's file."""

    code = _errno.EINVAL


class AccessDeniedError(MshareError, PermissionError):
    """The region's mode, owner or kind does not allow what was asked."""

    code = _errno.EACCES


class ReadOnlyMappingError(MshareError, PermissionError):
    """This process maps the region read-only at that address and asked to write through it."""

    code = _errno.EACCES


class AddressTakenError(MshareError):
    """Another mapping of this process overlaps the region's addresses."""

    code = _errno.EADDRINUSE


class NoSpaceError(MshareError):
    """The region does not fit; the message has the sizes."""

    code = _errno.ENOSPC


class RegionBusyError(MshareError):
    """Live processes are attached, so the region stays."""

    code = _errno.EBUSY


class BackendUnavailableError(MshareError):
    """A backend that was asked for by name cannot be used on this machine, or for this request."""

    code = _errno.EOPNOTSUPP


class ModuleBuildError(MshareError):
    """The kernel module could not be compiled, or the kernel does not take what was compiled."""

    code = _errno.ENOEXEC


class ViewsAliveError(MshareError, BufferError):
    """A memoryview, slice or array over the region is still alive, so it stays mapped and open."""

    code = _errno.EBUSY


class RegionClosedError(MshareError, ValueError):
    """The `Region` or `Handle` object has been closed."""

    code = _errno.EBADF


class NotAHandleError(MshareError):
    """The message had no descriptor, more than one, or the other side hung up."""

    code = _errno.EBADMSG


class DescriptorLimitError(MshareError):
    """This process (`RLIMIT_NOFILE`) or, with ENFILE, the machine (`fs.file-max`) may have no more open files."""

    code = _errno.EMFILE


class NotSealedError(MshareError, PermissionError):
    """A sealed region was required, and others can still write to this one or change its size."""

    code = _errno.EPERM


class NotASnapshotError(MshareError):
    """A file that `mshare scan --save` did not write, or that is cut, damaged or from a newer version."""

    code = _errno.EBADMSG


class MissingExtraError(MshareError):
    """A package that only an optional part needs is not installed; the hint names the extra that brings it."""

    code = _errno.ENOPKG


class OwnerDiedError(MshareError):
    """The thread that held a lock ended, by a kill or otherwise, before it released the lock. The data may be half
    changed. `pid` and `started` name the process, `noticed` and `region` and `offset` the event."""

    code = _errno.EOWNERDEAD

    pid: int = 0
    """The process, by its number in its own PID namespace."""
    started: float = 0.0
    """The start of the process in seconds since the epoch, to a hundredth; 0 if the process had no /proc."""
    noticed: float = 0.0
    """The first attempt to get the lock after the death, in seconds since the epoch: the time of the death itself if
    another thread was waiting."""
    region: str = ""
    """The name of the region that the lock lies in."""
    offset: int = 0
    """The byte of the region at which the lock begins."""

    def __reduce__(self) -> tuple[type[MshareError], tuple[str, str], dict[str, int | None]]:
        return type(self), (self.problem, self.hint), vars(self) | {"errno": self.errno}


class NotOwnerError(MshareError, RuntimeError):
    """A lock was to be released by a thread that does not hold the lock."""

    code = _errno.EPERM


class AlreadyOwnerError(MshareError, RuntimeError):
    """A thread asked for a lock that the thread itself holds, and would have waited forever."""

    code = _errno.EDEADLK


class LockTimeoutError(MshareError, TimeoutError):
    """A lock was not free within the time that the caller gave."""

    code = _errno.ETIMEDOUT


class NotALockError(MshareError):
    """The bytes at an offset are no lock of the expected class, or something has overwritten the lock."""

    code = _errno.EBADMSG


for _kind in [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, MshareError)]:
    _kind.__module__ = "mshare"  # Tracebacks and pickles show the name that programs can import.
