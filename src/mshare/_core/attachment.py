"""Attaching regions, by name or by handle, and detaching all of a name.

May depend on: attached, limits, handle, linux, mapping, region, errors, units, geometry, record, procfs, entry,
names, placement.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from fcntl import F_GETFL, fcntl

from . import entry, limits, mapping, names, placement
from .attached import Attached
from .errors import (
    AccessDeniedError,
    InvalidArgumentError,
    InvalidSizeError,
    MshareError,
    NotSealedError,
    RegionBusyError,
)
from .geometry import round_up
from .handle import Handle, is_sealed
from .linux import locks
from .linux.descriptors import Descriptor
from .procfs import FileId
from .record import ATTACHED_BYTE
from .region import Region, views_alive, without_views
from .units import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


class _Anywhere:
    def __repr__(self) -> str:
        return "mshare.ANYWHERE"


ANYWHERE: Final = _Anywhere()
"""An `addr=` of `attach`: the region may lie at any free address of this process."""


@limits.named
def attach(
    name: str | Handle,
    *,
    readonly: bool | None = None,
    addr: int | _Anywhere | None = None,
    owner: int | None = None,
    require_sealed: bool = False,
) -> Region:
    """Attach an existing region and return it, at the same address as in every other process.

    - `name`: the region's name, or a handle of the region. The handle stays open, and you close it.
    - `readonly`: True makes the kernel refuse every write through the attachment: stores, `mprotect`, system calls.
      None, the default, attaches a name read-write, and a handle with the handle's rights.
    - `addr`: None for the region's own address, `ANYWHERE`, or another address: a multiple of the leaf size, on
      msharefs of 1 GiB.
    - `owner`: refuse a region that does not belong to this uid. Give the uid when you attach another user's region,
      because any user can take a free name in a root that all users may write to.
    - `require_sealed`: refuse a region that others can still write to or resize.

    If this process has the region mapped at that address already, the new `Region` uses the same mapping.

    Raises `RegionNotFoundError`, `NotARegionError`, `AccessDeniedError`, `AddressTakenError`, `InvalidAddressError`,
    `ReadOnlyMappingError` (this process has the region mapped read-only there), `RegionBusyError` (a remover does not
    finish), `NotSealedError`. Costs six or seven system calls, for a region of any size.
    """
    if isinstance(name, Handle):
        return _attach_handle(name, readonly, addr, owner, require_sealed)
    return attach_length(name, readonly=bool(readonly), addr=addr, owner=owner, length=0, require_sealed=require_sealed)


def _attach_handle(
    handle: Handle, readonly: bool | None, addr: int | _Anywhere | None, owner: int | None, require_sealed: bool
) -> Region:
    fd = handle.fileno()
    if readonly is None:
        readonly = handle.readonly
    elif not readonly and handle.readonly:
        raise AccessDeniedError("nothing can be written through this handle", "attach it with readonly=True")
    status = os.fstat(fd)
    _check_owner("of this handle", status.st_uid, owner)
    if require_sealed:
        _check_sealed("of this handle", handle.sealed)
    with _with_rights(fd, readonly=readonly) as own_fd:
        if not locks.try_read_lock(own_fd, ATTACHED_BYTE):
            raise RegionBusyError("the region of this handle is being removed", "try again")
        region = Region("", None, status, handle.record, readonly=readonly)
        region._attached.handle = handle.duplicate()
        try:
            _map(own_fd, FileId(status.st_dev, status.st_ino), region, addr)
        except BaseException:
            region.close()  # now, not when the error's traceback lets go of it
            raise
    return region


def _with_rights(fd: int, *, readonly: bool) -> AbstractContextManager[int]:
    """Return `fd`, or for a read-only attachment the same file opened for reading only.

    The kernel lets a process make a mapping writable, and counts that mapping as one that can write, if its file is
    open for writing. A map-only handle of msharefs cannot be opened again; there the module sees to both. Where the
    file may not be opened (another user's, no /proc), `fd` is used: this process has the right to write anyway.
    """
    if not readonly or fcntl(fd, F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return nullcontext(fd)
    try:
        return Descriptor(f"/proc/self/fd/{fd}", os.O_RDONLY)
    except OSError as error:
        limits.reraise(error)
        return nullcontext(fd)


def _check_owner(which: str, uid: int, owner: int | None) -> None:
    if owner is not None and uid != owner:
        raise AccessDeniedError(f"region {which} belongs to uid {uid}, not {owner}", "check who made it")


def _check_sealed(which: str, sealed: bool) -> None:
    if not sealed:
        raise NotSealedError(f"region {which} is not sealed", "have its creator call seal()")


def attach_length(
    name: str,
    *,
    readonly: bool,
    addr: int | _Anywhere | None,
    owner: int | None,
    length: int,
    require_sealed: bool = False,
) -> Region:
    """Do the same as `attach` by name, and check the region's length (0: any length)."""
    names.check_name(name)
    opened = names.open_to_attach(name, writable=not readonly)
    if opened is None:
        opened = _wait_to_open(name, writable=not readonly)
    file, root, status = opened
    with file as fd:
        record = entry.read_record(name, fd, status)
        if whole(length, "a length") not in (0, record.size_bytes):
            raise InvalidSizeError(
                f"region {name!r} has {record.size_bytes} bytes, not {length}",
                "pass that length, or 0 for all of it",
            )
        _check_owner(repr(name), status.st_uid, owner)
        if require_sealed:
            _check_sealed(repr(name), is_sealed(fd))
        if record.frozen and not readonly:
            raise AccessDeniedError(
                f"region {name!r} was created read-only for everybody", "attach it with readonly=True"
            )
        if not readonly and record.is_linked and is_sealed(fd):
            raise AccessDeniedError(
                f"region {name!r} is sealed: nobody can write to it", "attach it with readonly=True"
            )
        region = Region(name, root, status, record, readonly=readonly)
        _map(fd, FileId(status.st_dev, status.st_ino), region, addr)
        return region


@limits.named
def reattach(region: Region, *, require_sealed: bool = False) -> Region:
    """Attach what the name of `region` means now, and return that region.

    The new region has the rights of `region`, and its own address; if `region` is attached elsewhere, so is the new
    one, at any free address. `region` stays open until you close it or drop the last reference to it, so that other
    threads can finish their work with it. If the name still means the same region, `region` itself is returned.

    - `require_sealed`: as for `attach`.

    Raises the errors of `attach` by name, `RegionClosedError`, `InvalidArgumentError` for a region without a name, and
    `AccessDeniedError` if the newer region belongs to another user than the older one.
    """
    now = region._named_now()
    if not region.name:
        raise InvalidArgumentError("a region without a name has no newer version", "attach a region by its name")
    if now is not None and os.path.samestat(now, region._status):
        if require_sealed:
            _check_sealed(repr(region.name), region.sealed)
        return region
    return attach_length(
        region.name,
        readonly=region.readonly,
        addr=None if region.addr == region._record.addr else ANYWHERE,
        owner=region._status.st_uid,
        length=0,
        require_sealed=require_sealed,
    )


def _wait_to_open(name: str, *, writable: bool) -> names.Opened:
    """Do the same as `names.open_to_attach`, but wait while a process removes the region. That takes microseconds."""
    found: list[names.Opened] = []

    def look() -> bool:
        opened = names.open_to_attach(name, writable=writable)
        found.extend([opened] if opened is not None else [])
        return opened is not None

    if not names.wait(look):
        raise RegionBusyError(f"region {name!r} is being removed by somebody who does not finish", "try again later")
    return found[0]


def _map(fd: int, file: FileId, region: Region, addr: int | _Anywhere | None) -> None:
    """Make `region` an owner of this process's mapping of the open file, an old or a new one."""
    record, writable, owner = region._record, not region.readonly, region._attached
    length = round_up(record.size_bytes, record.map_unit)
    with mapping.lock:
        if isinstance(addr, _Anywhere):
            area = mapping.map_file(
                fd,
                file,
                length,
                writable=writable,
                next_addr=lambda: placement.free_address(int.from_bytes(os.urandom(4)), record.size_bytes, []),
                fixed=False,
                owner=owner,
                region_name=region.name,
            )
        else:
            wanted = record.addr if addr is None else placement.check_address(addr, record.size_bytes, record.align)
            area = mapping.find(file, wanted, writable=writable, owner=owner) or mapping.map_file(
                fd,
                file,
                length,
                writable=writable,
                next_addr=lambda: wanted,
                fixed=True,
                owner=owner,
                region_name=region.name,
            )
        area.published(region.name)
        region._addr = area.addr


def _files_now(name: str) -> set[FileId]:
    """Return the file that has `name` now: it may have been attached by handle, or before it had this name."""
    with suppress(MshareError), names.find(name) as entry:
        return {entry.file}
    return set()


def attached_files(name: str) -> list[FileId]:
    """Return the files that this process has attached, each once: the one of `name`, and those that had it then."""
    return list(dict.fromkeys(area.file for area in mapping.all_of(name, _files_now(name))))


def detach_all(name: str) -> None:
    """Close every open `Region` of `name` in this process, or none.

    Raises `ViewsAliveError`, with nothing changed, if a view of one of them is alive.
    """
    files = _files_now(name)
    with mapping.lock:
        areas = mapping.all_of(name, files)
        mine = [owner for area in areas for owner in area.owners() if isinstance(owner, Attached)]
        if not without_views(areas):
            raise views_alive(name)
        for attached in mine:
            attached.let_go()
