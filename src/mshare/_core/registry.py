"""Names: finding, publishing and listing regions under the roots. May depend on: units, limits, backends, linux,
errors, record, procfs, typed.

A region is one file under a backend's root; its name is the file's name. There is no other list, so there is nothing
to repair after a crash. Who is attached is told by a lock on `ATTACHED_BYTE` that the kernel ties to each mapping.
The order that keeps names true:

- publish: the file is complete, locked and mapped before one `linkat` makes it visible (`O_TMPFILE`).
- attach: open, take the read lock, then look whether the file still has a name; if not, it is not there.
- remove: see `removal`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from . import backends, limits
from .errors import (
    AccessDeniedError,
    AmbiguousNameError,
    BackendUnavailableError,
    InvalidArgumentError,
    InvalidNameError,
    NotARegionError,
    RegionBusyError,
    RegionExistsError,
    RegionNotFoundError,
)
from .linux import locks, proc
from .linux.descriptors import Descriptor
from .linux.ioctl import RegionFacts, region_facts
from .procfs import FileId
from .record import ATTACHED_BYTE, RECORD_SIZE, NoRecordError, Record, RecordError, RegionInfo
from .typed import NamedTuple
from .units import whole

_PATIENCE_S = 1.0
"""How long to wait for somebody who removes a name: they need microseconds, unless they were stopped."""


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
    """Return `mode` if it is permission bits and no more. Raises `InvalidArgumentError`."""
    try:
        bits = whole(mode, "a mode")
    except TypeError:
        bits, shown = -1, repr(mode)
    else:
        shown = f"{bits:#o}"
    if bits & ~0o777:
        raise InvalidArgumentError(f"mode {shown} is no set of permission bits", "use 0o600 up to 0o777")
    return bits


class _Root(NamedTuple):
    """A root, and the file system that lay there when it was looked at."""

    path: str
    dev: int
    prefix: str
    """The path with a slash: a name goes behind it."""


_remembered: tuple[str | None, tuple[_Root, ...]] = (None, ())
"""$MSHARE_ROOT and the roots that were there at the last look. Replaced as a whole, so it needs no lock."""


def _remembered_roots() -> tuple[_Root, ...]:
    base, places = _remembered
    return places if base == os.environ.get("MSHARE_ROOT") else ()


def _present_roots() -> tuple[_Root, ...]:
    global _remembered  # noqa: PLW0603
    found: dict[str, _Root] = {}
    for root in (backend.root() for backend in backends.ALL):
        prefix = f"{root}/"
        if root is None or prefix in found:
            continue
        try:
            status = os.stat(root)
        except OSError:
            continue
        # A root that is not ours to search (a pool kept for one group, say) holds nothing for us.
        if stat.S_ISDIR(status.st_mode) and os.access(root, os.X_OK, effective_ids=True):
            found[prefix] = _Root(root, status.st_dev, prefix)
    _remembered = os.environ.get("MSHARE_ROOT"), tuple(found.values())
    return _remembered[1]


def roots() -> list[str]:
    """Return the directories that hold regions, in the order in which names are looked up."""
    return [root.path for root in _present_roots()]


def root_of(dev: int) -> str | None:
    """Return the root that lies on the file system `dev`, if one does."""
    return next((root.path for root in _present_roots() if root.dev == dev), None)


def no_proc() -> BackendUnavailableError:
    """Return what to raise where there is no /proc."""
    return BackendUnavailableError("there is no /proc here", "sudo mount -t proc proc /proc")


def hidden_proc(error: OSError) -> BackendUnavailableError:
    """Return what to raise where a file of /proc that every machine has cannot be read."""
    if not proc.is_mounted():
        return no_proc()
    return BackendUnavailableError(
        f"{error.filename} cannot be read ({error.strerror})",
        "give this process all of /proc (in its systemd unit: ProcSubset=all)",
    )


@contextmanager
def read_only_named(root: str) -> Iterator[None]:
    """Raise `BackendUnavailableError` instead of the kernel's EROFS for a file under `root`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise BackendUnavailableError(
            f"{root} is mounted read-only",
            f"sudo mount -o remount,rw {root}; until then, regions in it can be attached with readonly=True",
        ) from error


class RootEntry(NamedTuple):
    """A region found by name: the entry of its file in a root's directory. `descriptor` is an `O_PATH` descriptor of
    the file, which is still to be opened."""

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
        """A path that means this very file, not whatever has its name now."""
        return f"/proc/self/fd/{self.descriptor.fd}"

    def reopen(self, access: int) -> Descriptor:
        """Open this very file. Raises `OSError`, `BackendUnavailableError` without a /proc or for writing where the
        root is mounted read-only, `RegionBusyError`."""
        try:
            with read_only_named(self.root):
                return Descriptor(self.link, access | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise no_proc() from error
        except BlockingIOError as error:
            raise RegionBusyError(
                f"the owner of {self.path} holds a lease on it (fcntl F_SETLEASE)",
                f"have uid {self.status.st_uid} give it back, or choose another name",
            ) from error

    def open(self, *, writable: bool) -> Descriptor:
        """`reopen` for who wants to attach, or look. Raises `AccessDeniedError`."""
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


_Version = tuple[int, int, int, int]
_REMEMBERED_RECORDS = 4096
_records: dict[_Version, Record] = {}
"""Records by the file they were read from, as it was then.

Facts: a record is written before the file has a name, and never again. Writing and truncating the file, or reusing its
inode number, change the time of change or the size; who may write it can also change it through a mapping, unseen.
Consequence: what is remembered is what any reader would find, or, with an enemy who may write, what one found before
and has checked.
Decision: each version of a file is read once per process."""


def _version(status: os.stat_result) -> _Version:
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def read_record(name: str, fd: int, status: os.stat_result | None = None) -> Record:
    """Return the record of the open file, whose `status` the caller may know, or what its file system knows instead.
    Raises `NotARegionError`."""
    status = status or os.fstat(fd)
    version = _version(status)
    known = _records.get(version)
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
        raise NotARegionError(f"{name!r} is no region: {error}", "choose another name, or remove that file") from error
    if len(_records) >= _REMEMBERED_RECORDS:
        _records.clear()
    _records[version] = record
    return record


def known_to_kernel(fd: int) -> bool:
    """Tell whether the kernel says that somebody maps the open region file: programs without our lock, too."""
    return any(backend.attached(fd) for backend in backends.ALL)


def is_attached(fd: int) -> bool:
    """Tell whether anybody is attached to the open region file, as far as its locks and the kernel tell."""
    return locks.is_locked(fd, ATTACHED_BYTE) or known_to_kernel(fd)


@contextmanager
def find(name: str) -> Iterator[RootEntry]:
    """Give the file that has `name`.

    Raises `InvalidNameError`, `RegionNotFoundError`, `AmbiguousNameError`, or `NotARegionError` for anything but an
    ordinary file; a symlink is never followed and a FIFO or device never opened.

    Facts: a root can come or go at any time (a mount, MSHARE_ROOT), and asking for all means reading the mount table:
    four times as long as all the rest of an attach. Consequence: a file found in a remembered root is the one, if
    that still has the file system it had; a name not found may be in a new root.
    Decision: look where roots were; before saying "there is none", look where they are.
    """
    check_name(name)
    hits = _hits(name, _remembered_roots()) or _hits(name, _present_roots())
    try:
        entry = _the_one(name, hits)
        mode = entry.status.st_mode
        if not stat.S_ISREG(mode):
            raise NotARegionError(f"{entry.path} is {_kind(mode)}, not a region", "remove it, or choose another name")
        yield entry
    finally:
        for hit in hits:
            hit.descriptor.close()


def _hits(name: str, places: tuple[_Root, ...]) -> list[RootEntry]:
    """Open what has `name` in each of the places, if these are still what they were."""
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
    """Return the file that is meant: names are unique, unless somebody has put files there by hand."""
    if len(hits) > 1:
        mine = [hit for hit in hits if hit.status.st_uid == os.geteuid()]
        if len(mine) != 1:
            files = " and ".join(f"{hit.path} of uid {hit.status.st_uid}" for hit in hits)
            raise AmbiguousNameError(f"region {name!r} is there twice: {files}", "remove the one that is false")
        return mine[0]
    if hits:
        return hits[0]
    for place in _present_roots():
        if _is_mounted_on(place, name):  # not "there is none": who hears that would create it, for ever
            raise NotARegionError(f"something is mounted on {place.prefix}{name}", "unmount it, or choose another name")
    raise RegionNotFoundError(
        f"there is no region {name!r} under {', '.join(roots()) or 'any root'}",
        "create it, or see `mshare ls` for those that exist",
    )


def _is_mounted_on(place: _Root, name: str) -> bool:
    try:
        return os.stat(place.prefix + name, follow_symlinks=False).st_dev != place.dev
    except OSError:
        return False


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
"""A region's open file that carries an attachment's lock, its root, and its status: it is still named."""


def open_to_attach(name: str, *, writable: bool) -> Opened | None:
    """Open the region's file and take the attachment's lock; None while somebody removes it.

    Raises what `find` and `RootEntry.open` raise.

    Facts: `find` needs three system calls before the file is open. With O_NOFOLLOW and O_NONBLOCK opening at once is
    harmless, whatever has the name: a symlink is refused, a FIFO does not block.
    Decision: open at once; whatever is out of the ordinary then goes by `find`, which also knows what to say.
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
        file.close()  # now: it carries a lock
        found = None  # Removed since (there may be a new one), or nothing of ours.


def _open_at_once(name: str, access: int) -> tuple[Descriptor, str, int] | None:
    """Open the file of that name where roots were at the last look, if exactly one of them has one that opens; return
    it with its root and the device that lay there."""
    found = None
    for place in _remembered_roots() or _present_roots():
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
    """Raise `RegionExistsError` if anything has `name` under any root."""
    for root in roots():
        if os.path.lexists(os.path.join(root, name)):
            raise _exists(name, root)


def _exists(name: str, root: str) -> RegionExistsError:
    return RegionExistsError(
        f"{os.path.join(root, name)} exists already",
        f"attach it, choose another name, or remove it (mshare rm {name!r})",
    )


def publish(fd: int, root: str, name: str) -> None:
    """Give the complete, unnamed file `fd` its name, in one step, or raise `RegionExistsError`.

    Names are unique over all roots though no step spans two file systems: who looks and links holds the first root's
    directory by flock(2), which dies with its holder. Linking first and withdrawing later would take a region away
    from whoever attached meanwhile. A holder who does not let go costs us a second and the guarantee, no more.
    """
    with ExitStack() as held:
        if len(roots()) > 1:
            with suppress(PermissionError):  # a directory we may search, but not read
                turn = held.enter_context(Descriptor(roots()[0], os.O_RDONLY | os.O_DIRECTORY))
                wait(lambda: locks.try_flock(turn))
        root_fd = held.enter_context(Descriptor(root, os.O_PATH | os.O_DIRECTORY))
        refuse_existing(name)
        try:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=root_fd, follow_symlinks=True)
        except FileExistsError as error:
            raise _exists(name, root) from error


def withdraw(fd: int, root: str, name: str) -> None:
    """Take away the name of a file that `publish` may or may not have given it. Who has attached keeps the memory."""
    with suppress(OSError):
        now, mine = os.stat(os.path.join(root, name), follow_symlinks=False), os.fstat(fd)
        if os.path.samestat(now, mine):
            os.unlink(os.path.join(root, name))


def describe(
    name: str,
    root: str | None,
    status: os.stat_result,
    record: Record,
    facts: RegionFacts | None,
    *,
    locked: bool,
    pids: tuple[int, ...],
) -> RegionInfo:
    """Put together what `info()` and `regions()` show. `facts`: what msharefs says of the file."""
    return RegionInfo(
        name=name,
        size=record.size_bytes,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        backend=record.backend,
        leaf_size=record.leaf_size,
        map_unit=record.map_unit,
        addr=record.addr,
        pids=pids,
        orphan=not locked and not pids,
        created=record.created_ns / 1e9,
        reason=record.reason,
        frozen=record.frozen,
        named=True,
        path=os.path.join(root, name) if root is not None else "",
        memory_bytes=status.st_blocks * 512 if facts is None else facts.memory_bytes,
        shared_table_bytes=None if facts is None else facts.table_bytes,
        charged_bytes=None if facts is None else facts.charged_bytes,
    )


def _names() -> Iterator[tuple[_Root, str]]:
    """Yield what may be a region's name, in every root that can be listed, in order."""
    for root in _present_roots():
        if os.access(root.path, os.R_OK, effective_ids=True):
            for name in sorted(os.listdir(root.path)):
                with suppress(InvalidNameError):
                    yield root, check_name(name)


def _entry(root: _Root, name: str) -> RootEntry | None:
    """Return the file of that name; None if it is no ordinary file of that root's own, or gone."""
    try:
        descriptor = Descriptor(root.prefix + name, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        limits.reraise(error)
        return None
    status = os.fstat(descriptor.fd)
    if not stat.S_ISREG(status.st_mode) or status.st_dev != root.dev:  # the latter: something is mounted on it
        return None
    return RootEntry(name, root.path, descriptor, FileId(status.st_dev, status.st_ino))


class Found(NamedTuple):
    """A region under a root. The entry is good until the next one is asked for."""

    entry: RootEntry
    record: Record
    locked: bool
    """Somebody is attached."""
    facts: RegionFacts | None
    """What msharefs says of it."""


def records() -> Iterator[Found]:
    """Yield every region this process may read. Costs a few system calls per file in the roots, and nothing per
    attached process."""
    for root, name in _names():
        entry = _entry(root, name)
        if entry is None:
            continue
        with entry.descriptor, suppress(AccessDeniedError, NotARegionError, RegionBusyError):
            with entry.open(writable=False) as fd:
                found = Found(entry, read_record(name, fd), is_attached(fd), region_facts(fd))
            yield found


def known_records() -> Iterator[Record]:
    """Yield the record of every region this process may read or has read before. Opens only what is new to it."""
    for root, name in _names():
        try:
            known = _records.get(_version(os.stat(root.prefix + name, follow_symlinks=False)))
            if known is None and (entry := _entry(root, name)) is not None:
                with entry.descriptor, entry.open(writable=False) as fd:
                    known = read_record(name, fd)
        except OSError as error:  # gone since, not ours to read, or no region
            limits.reraise(error)
            continue
        if known is not None:
            yield known


@limits.named
def regions() -> list[RegionInfo]:
    """Return every region this process may read, in order of name.

    `pids` has the processes whose maps this process may read; `orphan` holds for all processes. Costs one pass over
    the roots and, if there is any region, one over /proc.
    """
    return [info for info, _ in listed()]


def listed() -> list[tuple[RegionInfo, FileId]]:
    """`regions()`, each with the file it is: a name may mean another one a moment later."""
    found = [
        (describe(entry.name, entry.root, entry.status, record, facts, locked=locked, pids=()), entry.file)
        for entry, record, locked, facts in records()
    ]
    mapped = proc.processes_mapping({file for _, file in found})
    return sorted(((with_pids(info, mapped[file]), file) for info, file in found), key=lambda pair: pair[0].name)


@limits.named
def region_info(name: str) -> RegionInfo:
    """Return one region as it is now, without attaching it. Costs one pass over /proc.

    Raises `InvalidNameError`, `RegionNotFoundError`, `NotARegionError`, `AccessDeniedError`.
    """
    with find(name) as entry, entry.open(writable=False) as fd:
        record, locked = read_record(name, fd), is_attached(fd)
        info = describe(name, entry.root, entry.status, record, region_facts(fd), locked=locked, pids=())
        return with_pids(info, proc.processes_mapping({entry.file})[entry.file])


def with_pids(info: RegionInfo, pids: tuple[int, ...]) -> RegionInfo:
    """Return `info` with the processes found in /proc, which show users of the file that take no lock, too."""
    return info._replace(pids=pids, orphan=info.orphan and not pids)


def is_out_of_room(error: OSError) -> bool:
    """Tell whether the kernel had no memory, file-system space or pool pages left."""
    return error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG)
