"""The two calls of the proposal, with the same names, arguments and meaning.

May depend on: limits, attachment, creation, region, removal, errors, names.

Source: "Add support for shared PTEs across processes", RFC, January 2022. docs/decisions/0018-the-proposals-calls.md
lists the differences and their reasons.
"""

from __future__ import annotations

import os

from . import attachment as _attachment
from . import limits, names, removal
from .creation import Spec, build
from .errors import InvalidArgumentError, RegionBusyError, RegionExistsError, RegionNotFoundError
from .region import Region

_ALLOWED = os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@limits.named
def mshare(name: str, addr: int | None, length: int, oflags: int, mode: int = 0o600) -> Region:
    """Create and attach, or attach, the region `name`, and return it.

    - `addr`: the address of the attachment; 0 or None for the region's own address (picked at creation).
    - `length`: the region's size in bytes. 0 attaches an existing region of any size.
    - `oflags`: `os.O_RDONLY` or `os.O_RDWR`, with `os.O_CREAT` to create what does not exist and `os.O_EXCL` to
      insist on creating. `O_CREAT | O_RDONLY` makes a region that nobody may ever attach read-write.
    - `mode`: permission bits of a region that is created.

    Raises the errors of `create` and `attach`, `InvalidArgumentError` for other flags, `InvalidSizeError` (EINVAL) for
    a length that is not the region's.
    """
    names.check_name(name)
    access = oflags & os.O_ACCMODE
    if oflags & ~_ALLOWED or access not in (os.O_RDONLY, os.O_RDWR) or (oflags & os.O_EXCL and not oflags & os.O_CREAT):
        raise InvalidArgumentError(
            f"invalid open flags {oflags:#o}",
            "use O_RDONLY or O_RDWR, with O_CREAT, with O_EXCL beside O_CREAT",
        )
    readonly = access == os.O_RDONLY
    where = addr or None
    while True:
        if not oflags & os.O_EXCL:
            try:
                return _attachment.attach_length(name, readonly=readonly, addr=where, owner=None, length=length)
            except RegionNotFoundError:
                if not oflags & os.O_CREAT:
                    raise
        try:
            return build(Spec(name, length, mode, where, frozen=readonly))
        except RegionExistsError:
            if oflags & os.O_EXCL:
                raise


@limits.named
def mshare_unlink(name: str) -> bool:
    """End this process's access to the region. The last live process that makes this call removes the region.

    The call closes every `Region` of that name in this process. It returns True if the region is gone. It returns
    False if other processes are attached, or if this process may not remove the region, which then stays for its
    owner. A process that dies without this call holds nothing. A forked child counts as a process of its own.

    In a process that is not attached, the call removes an orphan, and raises `RegionBusyError` if other processes are
    attached (`unlink` removes the name even then). Also raises `RegionNotFoundError`, `NotARegionError`,
    `AccessDeniedError`, and `ViewsAliveError`, with nothing changed, if a view into the region lives.
    """
    names.check_name(name)
    files = _attachment.attached_files(name)
    if not files:
        removal.remove_if_idle(name)
        return True

    def detach() -> None:
        _attachment.detach_all(name)

    gone = True
    for file in files:
        try:
            # Detach only when the removal has all its descriptors: a failed call changes nothing.
            removal.remove_if_idle(name, expected=file, name_users=False, before=detach)
            break
        except (RegionBusyError, PermissionError):
            gone = False
            break
        except RegionNotFoundError:
            continue  # the name had been removed before, or another last process has just removed it
    detach()
    return gone
