"""Replacement: a complete file takes over the name of an older region in one step.

May depend on: entry, linux, errors, names, removal, record,
typed.

Facts: linkat(2) never replaces a file. rename(2) replaces one in one step, but only within one file system, and needs a
name to start from. A process can die between the two calls.
Consequence: the new file gets a hidden name first, which no region can have, and rename(2) then moves the file over the
older one. A process that dies in between leaves the hidden name, with all the memory behind it. The kernel drops the
lock of its attachment then, so that the next replacement, before it takes memory, and `gc` recognize the file and
remove it.
Decision: docs/decisions/0035-live-replacement.md.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from . import names, removal
from .entry import RootEntry, read_record
from .errors import (
    AccessDeniedError,
    BackendUnavailableError,
    RegionBusyError,
    RegionExistsError,
    RegionNotFoundError,
)
from .linux import locks
from .linux.descriptors import Descriptor
from .record import ATTACHED_BYTE, NAME_BYTE
from .typed import NamedTuple


class Older(NamedTuple):
    """The region that has a name now."""

    root: str
    mode: int


def find_older(name: str) -> Older | None:
    """Return the region that has `name`; None if there is no such region.

    Raises the error that `publish_over` would raise, before anybody has filled a new region in vain:
    `NotARegionError`, `AmbiguousNameError`, `AccessDeniedError`.
    """
    try:
        with names.find(name) as entry:
            _check_removable(entry)
            with removal.open_to_remove(entry) as fd:
                read_record(name, fd)
            return Older(entry.root, stat.S_IMODE(entry.status.st_mode))
    except RegionNotFoundError:
        return None


def _check_removable(entry: RootEntry) -> None:
    """Raise `AccessDeniedError` if the root is sticky and the kernel would keep this user from the rename."""
    root = os.stat(entry.root)
    if root.st_mode & stat.S_ISVTX and os.geteuid() not in (0, root.st_uid, entry.status.st_uid):
        raise _not_yours(entry)


def _not_yours(entry: RootEntry) -> AccessDeniedError:
    return AccessDeniedError(
        f"uid {os.geteuid()} may not replace region {entry.name!r} of uid {entry.status.st_uid}",
        "ask its owner or root, or choose another name",
    )


def publish_over(fd: int, root: str, name: str) -> None:
    """Give the complete, unnamed file `fd` the name, in one step, whether another region has the name or none.

    Processes that have the older region attached keep its memory. Raises `BackendUnavailableError` if the older region
    lies in another root, `NotARegionError` if the name means any other file, `AccessDeniedError`, `RegionBusyError` if
    others change the name all the time. A failed call changes nothing.
    """
    for _ in range(removal.TRIES):
        try:
            if _replace(fd, root, name):
                return
        except RegionNotFoundError:
            with suppress(RegionExistsError):
                names.publish(fd, root, name)
                return
    raise RegionBusyError(f"other processes change what {name!r} means all the time", "try again")


def _replace(fd: int, root: str, name: str) -> bool:
    """Replace the region that has the name now; False if another process was faster."""
    with names.find(name) as entry, removal.open_to_remove(entry) as older:
        read_record(name, older)
        if entry.root != root:
            raise BackendUnavailableError(
                f"region {name!r} has appeared in {entry.root} in the meantime, and the new one is in {root}",
                "try again: the new one is then made in the same directory",
            )
        # A remover that has looked at the older file would remove the newer one. It holds the first of these locks in
        # the meantime, and the second also if it removes only what is idle. A mere reader can keep the first for good.
        names.wait(lambda: locks.try_write_lock(older, NAME_BYTE))
        names.wait(lambda: locks.try_read_lock(older, ATTACHED_BYTE))
        if not entry.still_named():
            return False
        with Descriptor(root, os.O_PATH | os.O_DIRECTORY) as root_fd:
            hidden = f"{names.HIDDEN}{os.getpid()}-{os.urandom(8).hex()}"
            try:
                os.link(f"/proc/self/fd/{fd}", hidden, dst_dir_fd=root_fd, follow_symlinks=True)
                os.rename(hidden, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
            except PermissionError as error:
                raise _not_yours(entry) from error
            finally:
                with suppress(FileNotFoundError):  # the usual case: the file has its name
                    os.unlink(hidden, dir_fd=root_fd)
        return True
