"""Names: finding the file of a name, giving a file its name, and taking the name back. May depend on: entry, roots,
linux, errors, units, procfs, record.

A region is one file under a root, and its name is the file's name. There is no other list, so there is nothing to
repair after a crash. Each attachment has a lock on `ATTACHED_BYTE`, which the kernel ties to the mapping. This order
keeps names true:

- publish: the file is complete, locked and mapped before one `linkat` makes the file visible (`O_TMPFILE`).
- attach: open the file, take the read lock, and check that the file still has its name. If not, the region is gone.
- remove: see `removal`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from . import roots
from .entry import RootEntry
from .errors import (
    AmbiguousNameError,
    InvalidArgumentError,
    InvalidNameError,
    NotARegionError,
    RegionExistsError,
    RegionNotFoundError,
)
from .linux import locks
from .linux.descriptors import Descriptor
from .procfs import FileId
from .record import ATTACHED_BYTE
from .units import whole

HIDDEN = ".mshare-new-"
"""The first characters of the names of files that are about to replace others. No region can have such a name."""

_PATIENCE_S = 1.0
"""The longest wait for a process that removes a name. A removal takes microseconds, unless the process was stopped."""


def check_name(name: str) -> str:
    """Return `name` if a region may have it. Raises `InvalidNameError` (and TypeError if it is no `str`)."""
    if not isinstance(name, str):
        raise TypeError(f"a region's name is a str, not {type(name).__name__}")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InvalidNameError(f"region name {name!r} is not UTF-8", "use text") from None
    if not 1 <= len(raw) <= 255 or name.startswith(".") or "/" in name or "\0" in name:
        raise InvalidNameError(
            f"{name[:80]!r} cannot be a region's name", "use 1 to 255 bytes, no '/', no NUL, no leading dot"
        )
    return name


def check_mode(mode: int) -> int:
    """Return `mode` if it has only permission bits. Raises `InvalidArgumentError`."""
    try:
        bits = whole(mode, "a mode")
    except TypeError:
        bits, shown = -1, repr(mode)
    else:
        shown = f"{bits:#o}"
    if bits & ~0o777:
        raise InvalidArgumentError(f"invalid mode {shown}", "use permission bits, 0o000 to 0o777")
    return bits


@contextmanager
def find(name: str) -> Iterator[RootEntry]:
    """Give the file that has `name`.

    Raises `InvalidNameError`, `RegionNotFoundError`, `AmbiguousNameError`, or `NotARegionError` for anything but an
    ordinary file. A symlink is never followed, and a FIFO or device is never opened.

    Facts: a root can come or go at any time (a mount, MSHARE_ROOT). Finding all roots means reading the mount table,
    which takes four times as long as the rest of an attach. Consequence: a file in a remembered root is the right one
    if the root still has the same file system. A name that is not found may be in a new root.
    Decision: look in the remembered roots first. Before the answer "there is none", look in the present roots.
    """
    check_name(name)
    hits = _hits(name, roots.remembered()) or _hits(name, roots.present())
    try:
        entry = _the_one(name, hits)
        mode = entry.status.st_mode
        if not stat.S_ISREG(mode):
            raise NotARegionError(f"{entry.path} is {_kind(mode)}, not a region", "remove it, or choose another name")
        yield entry
    finally:
        for hit in hits:
            hit.descriptor.close()


def _hits(name: str, places: tuple[roots.Root, ...]) -> list[RootEntry]:
    """Open the files that have `name` in each of the places, if each place still has the same file system."""
    hits: list[RootEntry] = []
    for place in places:
        try:
            descriptor = Descriptor(place.prefix + name, os.O_PATH | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # the last: a root not ours to search, now
            continue
        status = os.fstat(descriptor.fd)
        if status.st_dev != place.dev:
            return []
        hits.append(RootEntry(name, place.path, descriptor, FileId(status.st_dev, status.st_ino)))
    return hits


def _the_one(name: str, hits: list[RootEntry]) -> RootEntry:
    """Return the file of the name. Names are unique, unless somebody has put files into the roots by hand."""
    if len(hits) > 1:
        mine = [hit for hit in hits if hit.status.st_uid == os.geteuid()]
        if len(mine) != 1:
            files = " and ".join(f"{hit.path} of uid {hit.status.st_uid}" for hit in hits)
            raise AmbiguousNameError(f"region {name!r} exists twice: {files}", "remove the wrong one")
        return mine[0]
    if hits:
        return hits[0]
    for place in roots.present():
        if roots.is_mounted_on(place, name):  # not "there is none": a caller would try to create it forever
            raise NotARegionError(f"something is mounted on {place.prefix}{name}", "unmount it, or choose another name")
    raise RegionNotFoundError(
        f"there is no region {name!r} under {', '.join(roots.directories()) or 'any root'}",
        "create it, or see `mshare ls` for those that exist",
    )


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a symlink"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"))
    return next((kind for test, kind in kinds if test(mode)), "a special file")


def wait(done: Callable[[], bool]) -> bool:
    """Poll `done` for up to `_PATIENCE_S` seconds."""
    limit = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(0.001)
    return True


Opened = tuple[Descriptor, str, os.stat_result]
"""A region's open file with an attachment's lock, its root, and its status. The file still has its name."""


def open_to_attach(name: str, *, writable: bool) -> Opened | None:
    """Open the region's file and take the attachment's lock; None while another process removes the region.

    Raises the errors of `find` and `RootEntry.open`.

    `find` needs three system calls before the file is open. With O_NOFOLLOW and O_NONBLOCK a direct open is harmless
    for any file of that name: a symlink is refused, and a FIFO does not block. The file is therefore opened directly.
    `find` handles every unusual case and has the messages.
    """
    found = _open_at_once(name, os.O_RDWR if writable else os.O_RDONLY)
    while True:
        if found is None:
            with find(name) as entry:
                found = entry.open(writable=writable), entry.root, entry.file.dev
        file, root, dev = found
        if not locks.try_read_lock(file.fd, ATTACHED_BYTE):
            file.close()
            return None
        status = os.fstat(file.fd)
        if status.st_nlink and status.st_dev == dev and stat.S_ISREG(status.st_mode):
            return file, root, status
        file.close()  # close now, because the descriptor carries a lock
        found = None  # Removed since (there may be a new one), or nothing of ours.


def _open_at_once(name: str, access: int) -> tuple[Descriptor, str, int] | None:
    """Open the file of that name in the remembered roots, if exactly one root has a file that opens. Return the file
    with its root and the root's device."""
    found = None
    for place in roots.remembered() or roots.present():
        try:
            file = Descriptor(place.prefix + name, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if found is not None:
            return None
        found = file, place.path, place.dev
    return found


def refuse_existing(name: str) -> None:
    """Raise `RegionExistsError` if any file has `name` under any root."""
    for root in roots.directories():
        if os.path.lexists(os.path.join(root, name)):
            raise _exists(name, root)


def _exists(name: str, root: str) -> RegionExistsError:
    return RegionExistsError(
        f"{os.path.join(root, name)} exists already",
        f"attach it, choose another name, or remove it (mshare rm {name!r})",
    )


def publish(fd: int, root: str, name: str) -> None:
    """Give the complete, unnamed file `fd` its name, in one step, or raise `RegionExistsError`."""
    with turn():
        link_unique(fd, root, name)


@contextmanager
def turn() -> Iterator[None]:
    """Keep other creators from giving names in the meantime.

    Names are unique over all roots, although Linux cannot check and link across two file systems in one step. A creator
    therefore holds a flock(2) on the first root's directory while it looks and links. The kernel releases the lock when
    its holder exits. A creator that linked first and withdrew later would take a region away from processes that
    attached in between. If a holder never releases the lock, a creator waits one second and then continues without the
    guarantee.
    """
    with ExitStack() as held:
        if len(roots.directories()) > 1:
            with suppress(PermissionError):  # a directory that we may search, but not read
                first = held.enter_context(Descriptor(roots.directories()[0], os.O_RDONLY | os.O_DIRECTORY))
                wait(lambda: locks.try_flock(first))
        yield


def link_unique(fd: int, root: str, name: str) -> None:
    """Give the unnamed file `fd` its name under `root`, or raise `RegionExistsError`. The caller has the `turn`."""
    with Descriptor(root, os.O_PATH | os.O_DIRECTORY) as root_fd:
        refuse_existing(name)
        try:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=root_fd, follow_symlinks=True)
        except FileExistsError as error:
            raise _exists(name, root) from error


def withdraw(fd: int, root: str, name: str) -> None:
    """Take away the name of a file that `publish` may or may not have given it. Attached processes keep the memory."""
    with suppress(OSError):
        now, mine = os.stat(os.path.join(root, name), follow_symlinks=False), os.fstat(fd)
        if os.path.samestat(now, mine):
            os.unlink(os.path.join(root, name))
