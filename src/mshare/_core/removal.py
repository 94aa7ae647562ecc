"""Taking names away: by force, when idle, and the collection of orphans.

May depend on: limits, linux, errors, units, record, procfs, entry, listing, names, roots.

Remove when idle: take the write lock on `ATTACHED_BYTE` (so nobody is attached, and a newcomer waits), look that
the name still means this file, unlink. `NAME_BYTE` keeps two removers apart, so that none unlinks a newer region of the
same name, unless it was stopped for more than a second in between (docs/known-gaps.md). A remover that dies has
changed nothing: the kernel drops its locks.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from . import limits, roots
from .entry import RootEntry, is_attached, known_to_kernel, read_record
from .errors import (
    AccessDeniedError,
    AmbiguousNameError,
    BackendUnavailableError,
    NotARegionError,
    RegionBusyError,
    RegionNotFoundError,
)
from .linux import locks, proc
from .linux.descriptors import Descriptor
from .listing import entry_in, listed
from .names import HIDDEN, find, wait
from .procfs import FileId
from .record import ATTACHED_BYTE, NAME_BYTE, RegionInfo
from .roots import read_only_named
from .units import format_list

TRIES = 100
"""The number of times that other processes may replace a region while this one removes or replaces it."""

_AT_ONCE = 64
"""The number of orphans that `gc` removes after one search of /proc for programs that map them without our lock. A
search takes about a hundred times as long as a removal. A program that attaches in between without the lock keeps
memory without a name."""


def open_to_remove(entry: RootEntry) -> Descriptor:
    """Open the file for writing, as the removers' locks need, also where its mode denies that to its owner.

    The owner may always change the mode: it is widened and put back at once. Dying in between leaves the owner `rw`
    of its own file. Of two owners' processes that do so at once, one may find the mode put back: it tries again.
    Raises `AccessDeniedError`; `BackendUnavailableError` where the root is mounted read-only.
    """
    for _ in range(8):
        mode = stat.S_IMODE(entry.status.st_mode)
        widen = entry.status.st_uid == os.geteuid() and mode & 0o600 != 0o600
        try:
            if widen:
                with read_only_named(entry.root):
                    os.chmod(entry.link, mode | 0o600)
        except PermissionError:  # a file of the file system's own, such as msharefs' mshare_info
            break
        try:
            return entry.reopen(os.O_RDWR)
        except PermissionError:
            if entry.status.st_uid != os.geteuid():
                break
        finally:
            if widen:
                os.chmod(entry.link, mode)
    raise _not_yours(entry)


def _not_yours(entry: RootEntry) -> AccessDeniedError:
    return AccessDeniedError(
        f"uid {os.geteuid()} may not remove region {entry.name!r} of uid {entry.status.st_uid}",
        "ask its owner or root",
    )


def _unlink(entry: RootEntry) -> None:
    try:
        with read_only_named(entry.root):
            os.unlink(entry.path)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise _not_yours(entry) from error


def unlink(name: str) -> None:
    """Remove the name now. Attached processes keep the memory until they detach. New attaches fail.

    Raises `RegionNotFoundError`, `NotARegionError` (any other file is left alone), `AccessDeniedError`,
    `BackendUnavailableError` (the root is mounted read-only).
    """
    unlink_file(name)


@limits.named
def unlink_file(name: str, expected: FileId | None = None) -> None:
    """Do the same as `unlink`, but leave a file alone that is not the `expected` one (`RegionNotFoundError`)."""
    for _ in range(TRIES):
        with find(name) as entry:
            _check_expected(entry, expected)
            with open_to_remove(entry) as fd:
                read_record(name, fd)
                # Forceful: go on if a remover does not finish, or an enemy with write access holds the lock.
                wait(lambda fd=fd: locks.try_write_lock(fd, NAME_BYTE))  # type: ignore[misc]
                if entry.still_named():
                    _unlink(entry)
                    return
    raise RegionBusyError(f"other processes change what {name!r} means all the time", "try again")


def _check_expected(entry: RootEntry, expected: FileId | None) -> None:
    if expected is not None and entry.file != expected:
        raise RegionNotFoundError(f"region {entry.name!r} has been replaced", "look again")


def remove_if_idle(
    name: str,
    expected: FileId | None = None,
    *,
    name_users: bool = True,
    users: tuple[int, ...] | None = None,
    before: Callable[[], None] | None = None,
) -> None:
    """Remove the region if no process is attached, and no process can attach in the meantime.

    `expected` is the caller's file; another file of that name is left alone (`RegionNotFoundError`).
    `name_users`: search /proc for the users, for the message of `RegionBusyError`, even if a lock tells of them.
    `users`: the processes that map the file, from a caller that has just searched /proc.
    `before`: called when the file is open and before the users are looked up. Its errors are raised here.
    Raises `RegionBusyError`, `RegionNotFoundError`, `NotARegionError`, `AccessDeniedError`,
    `BackendUnavailableError` (the root is mounted read-only).
    """
    with find(name) as entry:
        _check_expected(entry, expected)
        with open_to_remove(entry) as fd:
            read_record(name, fd)
            if before is not None:
                before()
            locked = is_attached(fd)
            # Foreign programs map the file without our lock. A search of /proc takes a while, so look before taking
            # the lock, for which others wait.
            pids = users
            if pids is None:
                pids = proc.processes_mapping({entry.file})[entry.file] if name_users or not locked else ()
            if locked or pids or not locks.try_write_lock(fd, ATTACHED_BYTE) or known_to_kernel(fd):
                raise _busy(entry, pids)
            wait(lambda: locks.try_write_lock(fd, NAME_BYTE))
            if not entry.still_named():
                raise RegionNotFoundError(f"region {name!r} has just been removed", "nothing is left to do")
            _unlink(entry)


def _busy(entry: RootEntry, pids: tuple[int, ...]) -> RegionBusyError:
    who = f"processes {format_list(pids)}" if pids else "other processes"
    return RegionBusyError(
        f"region {entry.name!r} is in use by {who}",
        "end them first, or remove the name by force with mshare.unlink",
    )


def orphans(*, older_than: float = 0.0) -> list[tuple[RegionInfo, FileId]]:
    """Return the regions that `gc` would remove, each with its file."""
    newest, uid = time.time() - older_than, os.geteuid()
    return [(info, file) for info, file in listed() if info.orphan and info.created <= newest and uid in (0, info.uid)]


@limits.named
def gc(*, older_than: float = 0.0) -> list[RegionInfo]:
    """Remove orphans that were created at least `older_than` seconds ago, and return the removed regions.

    A region that waits for its next user, for example while a service restarts, is also an orphan. Give an age that no
    such wait reaches, or remove regions by name. Regions of other users are left alone unless you are root. Memory that
    a killed `create(replace=True)` has left without a name is given back too, and is not in the result.

    Raises `BackendUnavailableError` if there are orphans and all of them are on roots that are mounted read-only.
    """
    remove_left_behind()
    removed = []
    refused: BackendUnavailableError | None = None
    found = orphans(older_than=older_than)
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        users = proc.processes_mapping({file for _, file in some})
        for info, file in some:
            # `expected`: a newer region of that name is not ours to judge.
            with suppress(RegionBusyError, RegionNotFoundError, NotARegionError, AmbiguousNameError, AccessDeniedError):
                try:
                    remove_if_idle(info.name, expected=file, users=users[file])
                    removed.append(info)
                except BackendUnavailableError as error:
                    refused = error
    if refused is not None and not removed:
        raise refused
    return removed


def remove_left_behind() -> None:
    """Remove the files of processes that died while they replaced a region. Files that others may still complete,
    that belong to other users, or that are no regions are left alone."""
    for entry in _hidden():
        with entry.descriptor, suppress(OSError):
            with entry.open(writable=False) as fd:
                read_record(entry.name, fd)
                if is_attached(fd):
                    continue
            _remove_left(entry)


def _remove_left(entry: RootEntry) -> None:
    with open_to_remove(entry) as fd:
        if locks.try_write_lock(fd, ATTACHED_BYTE) and entry.still_named():
            os.unlink(entry.path)


def _hidden() -> Iterator[RootEntry]:
    for root in roots.present():
        if not os.access(root.path, os.R_OK, effective_ids=True):
            continue
        for name in os.listdir(root.path):
            entry = entry_in(root, name) if name.startswith(HIDDEN) else None
            if entry is not None and os.geteuid() in (0, entry.status.st_uid):
                yield entry
