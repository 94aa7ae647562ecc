"""`SharedMemory`, `ShareableList` and `SharedMemoryManager` of the standard library, with regions of mshare as their
memory.

The signatures, attributes and exceptions are those of `multiprocessing.shared_memory`. `install` puts the classes in
the place of the standard ones for a whole process. docs/shared-memory.md lists the differences.

>>> from mshare import shared_memory
>>> segment = shared_memory.SharedMemory("docs-example", create=True, size=10)
>>> segment.buf[:5] = b"hello"
>>> other = shared_memory.SharedMemory("docs-example")      # usually in another process
>>> bytes(other.buf[:5])
b'hello'
>>> other.close()
>>> segment.close()
>>> segment.unlink()

May depend on: _core.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from multiprocessing import managers
from multiprocessing import shared_memory as _standard
from multiprocessing.managers import SharedMemoryManager as _StandardManager
from multiprocessing.shared_memory import ShareableList as _StandardList
from multiprocessing.shared_memory import SharedMemory as _StandardMemory
from pickle import PickleBuffer
from types import FunctionType, ModuleType

from ._core import removal
from ._core.attachment import ANYWHERE, attach
from ._core.creation import create as _create
from ._core.errors import (
    AddressTakenError,
    InvalidAddressError,
    InvalidNameError,
    InvalidSizeError,
    NotARegionError,
    ReadOnlyMappingError,
    RegionExistsError,
    ViewsAliveError,
)
from ._core.procfs import FileId
from ._core.region import Region

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = ["ShareableList", "SharedMemory", "SharedMemoryManager", "install"]


class SharedMemory(_StandardMemory):
    """A segment of shared memory with a name, which is a region of mshare of the same name.

    - `name`: the segment's name. None, with `create`, for a new name such as `psm_4f2a91c0`. Slashes at its beginning
      are not part of the region's name; the rest obeys the rules of `mshare.create`.
    - `create`: True creates the segment, filled with zeros, with all of its memory reserved. False attaches a segment.
    - `size`: bytes of a new segment, at least 1. It is ignored when a segment is attached.
    - `track`: accepted and ignored on every Python version. No process of `multiprocessing.resource_tracker` ever knows
      of the segment, and the segment lives until `unlink`, `mshare.unlink` or `mshare.gc`.

    `$MSHARE_BACKEND` forces a backend, as for `mshare.create`. A segment is attached at its region's address, or at any
    other if this process has something else there.

    Raises the errors of `mshare.create` and `mshare.attach`, which are subclasses of those that the standard class
    raises: FileExistsError, FileNotFoundError, PermissionError, ValueError, OSError (ENOSPC where the standard class
    would let a process die of SIGBUS later). Cost: creating clears the memory, once.
    """

    if TYPE_CHECKING:
        _mode: int

    _name: str | None = None
    _region: Region | None = None
    _guard: memoryview | None = None
    """The region's bytes. `_buf` is a view of this view, so `_guard.release()` fails while views of `_buf` live."""
    _buf: memoryview | None = None
    _file: FileId | None = None

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,  # noqa: ARG002
    ) -> None:
        if not size >= 0:
            raise InvalidSizeError(f"invalid size of {size} bytes", "'size' must be a positive integer")
        if create and size == 0:
            raise InvalidSizeError("a segment of 0 bytes cannot be created", "'size' must be a positive number")
        if name is None and not create:
            raise InvalidNameError("no name was given", "'name' can only be None if create=True")
        if name is None:
            self._name, region = self._create_under_new_name(size)
        else:
            full = "/" + name
            region = self._create(full, size) if create else _attach(_region_name(full))
            self._name = full
        status = region._status
        self._file = FileId(status.st_dev, status.st_ino)
        self._size = region.size
        self._guard = region.buf
        self._buf = memoryview(PickleBuffer(self._guard))
        self._region = region

    def _create(self, name: str, size: int) -> Region:
        return _create(_region_name(name), size, mode=self._mode)

    def _create_under_new_name(self, size: int) -> tuple[str, Region]:
        while True:
            name: str = _standard._make_filename()  # type: ignore[attr-defined]
            try:
                return name, self._create(name, size)
            except RegionExistsError:
                continue

    def __del__(self) -> None:
        if weakref is not None:  # at the very end of the interpreter, this module's names are gone
            super().__del__()

    def close(self) -> None:
        """Detach this object from the segment. A second call does nothing. The segment and other objects stay.

        Raises `ViewsAliveError` (a `BufferError`), and changes nothing but that `buf` may be a new view, while slices
        of `buf` or arrays made by `numpy.frombuffer` live: the standard class raises BufferError then. Other users of
        the memory, such as `numpy.ndarray(buffer=segment.buf)`, keep the memory mapped until they are gone. They would
        crash the process with the standard class.
        """
        region, guard, buf = self._region, self._guard, self._buf
        if region is None or guard is None or buf is None:
            return
        try:
            buf.release()
            guard.release()
        except BufferError as error:
            self._buf = memoryview(PickleBuffer(guard))
            raise ViewsAliveError(
                f"memoryviews or arrays of shared memory {self.name!r} are still alive",
                "delete or release() them, then close",
            ) from error
        for view in (guard, buf):
            _keep(region, view)
        self._region = self._guard = self._buf = None

    def unlink(self) -> None:
        """Remove the segment's name now. Attached processes keep the memory until they detach.

        Raises FileNotFoundError if the name is gone, or if it means a newer segment, which is not removed;
        PermissionError for a segment of another user.
        """
        if self._name:
            removal.unlink_file(_region_name(self._name), self._file)


def _region_name(name: str) -> str:
    """Return the region's name for a name as `shm_open` takes it, with one slash or more."""
    return name.lstrip("/")


_kept: dict[int, tuple[weakref.ref[memoryview], Region]] = {}
"""The regions of closed segments, each with a view that has been released, until the view is gone.

Facts: numpy.ndarray keeps the object alive whose memory it has, and does not tell that object. A view can therefore be
released while arrays have its memory.
Decision: a region goes with its views. That is at the end of `close` if nobody else keeps the views."""


def _keep(region: Region, view: memoryview) -> None:
    watch = weakref.ref(view, lambda watch, kept=_kept: kept.pop(id(watch), None))  # type: ignore[misc]
    _kept[id(watch)] = watch, region


def _attach(name: str) -> Region:
    try:
        return attach(name)
    except (AddressTakenError, InvalidAddressError, ReadOnlyMappingError):
        return attach(name, addr=ANYWHERE)
    except NotARegionError as error:
        raise NotARegionError(
            error.problem, "if multiprocessing.shared_memory made it, use mshare.shared_memory in that program as well"
        ) from error


def _rebound(function: Callable[..., Any], **names: object) -> Any:
    """Return a copy of a function for which some of its global names mean something else."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    return copy


class ShareableList(_StandardList):  # type: ignore[type-arg]
    """The standard list of a fixed length in shared memory, in a `SharedMemory` of this module (`shm`).

    The arguments, the layout in memory, the values that can be stored and the exceptions are the standard class's own:
    its code runs here. If a list cannot be made, for example of an int of more than 64 bits, its segment is removed.
    """

    if TYPE_CHECKING:
        shm: SharedMemory

    def __init__(self, sequence: Iterable[Any] | None = None, *, name: str | None = None) -> None:
        try:
            _init_list(self, sequence, name=name)
        except BaseException:
            if "shm" in vars(self) and (name is None or sequence is not None):
                self.shm.close()
                self.shm.unlink()
            raise


_init_list = _rebound(_StandardList.__init__, SharedMemory=SharedMemory)


class SharedMemoryManager(_StandardManager):
    """The standard manager, which gives out and removes the `SharedMemory` and `ShareableList` of this module.

    The manager's own process uses these classes also, with every start method.
    """

    def SharedMemory(self, size: int) -> _Memory:
        """Create and return a segment of `size` bytes. The manager removes it at its end."""
        memory: _Memory = _managed_memory(self, size)
        return memory

    def ShareableList(self, sequence: Iterable[Any] | None) -> _List:
        """Create and return a list of the items in `sequence`. The manager removes it at its end."""
        made: _List = _managed_list(self, sequence)
        return made

    @classmethod
    def _run_server(cls, *arguments: Any, **options: Any) -> None:
        _put_into_multiprocessing()
        super()._run_server(*arguments, **options)  # type: ignore[misc]


_Memory: TypeAlias = SharedMemory
_List: TypeAlias = ShareableList
_managed_memory = _rebound(_StandardManager.SharedMemory, shared_memory=sys.modules[__name__])
_managed_list = _rebound(_StandardManager.ShareableList, shared_memory=sys.modules[__name__])


def install() -> None:
    """Put the classes of this module into `multiprocessing.shared_memory` and `multiprocessing.managers`.

    All code of this process that uses the standard names from then on gets these classes. The call belongs at the top
    of the main module, before other imports: children with start method `spawn` or `forkserver` run those lines again.
    A second call does nothing. A module that has taken a standard class before, by `from multiprocessing.shared_memory
    import SharedMemory` or by a subclass, keeps it, and a RuntimeWarning names such modules.
    """
    if _standard.SharedMemory is SharedMemory:
        return
    _put_into_multiprocessing()
    late = sorted(name for name, module in list(sys.modules.items()) if _has_standard_class(name, module))
    if late:
        warnings.warn(
            f"these modules took the standard shared memory before mshare.shared_memory.install(), and keep it: "
            f"{', '.join(late)}. Call install() before they are imported.",
            RuntimeWarning,
            stacklevel=2,
        )


def _put_into_multiprocessing() -> None:
    _standard.SharedMemory = SharedMemory  # type: ignore[misc]
    _standard.ShareableList = ShareableList  # type: ignore[misc]
    managers.SharedMemoryManager = SharedMemoryManager  # type: ignore[misc]


def _has_standard_class(name: str, module: ModuleType) -> bool:
    """Tell whether a module has taken a standard class, or has made a subclass of one."""
    names = getattr(module, "__dict__", {})
    kinds = [each for each in list(names.values()) if isinstance(each, type)]
    return name != __name__ and any(
        issubclass(kind, (_StandardMemory, _StandardList, _StandardManager))
        and not issubclass(kind, (SharedMemory, ShareableList, SharedMemoryManager))
        for kind in kinds
    )
