"""Listing: the regions that exist, and the facts that are shown about each.

May depend on: entry, names, roots, limits, linux, errors, geometry, procfs, record, typed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from . import entry as entry_of
from . import limits, roots
from .entry import RootEntry, is_attached, read_record
from .errors import AccessDeniedError, InvalidNameError, NotARegionError, RegionBusyError
from .geometry import Span, attachment_span
from .linux import proc
from .linux.descriptors import Descriptor
from .linux.ioctl import RegionFacts, region_facts
from .names import check_name, find
from .procfs import FileId, Vma, unescape
from .record import ATTACHED_BYTE, HeldRegion, Record, RegionInfo
from .typed import NamedTuple

_DELETED = " (deleted)"
"""The text with which /proc/PID/maps marks a file that has lost its name. The kernel calls a file that has had none
`#` and its inode."""


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
    """Return the record that `info()` and `regions()` show. `facts`: the answers of msharefs about the file."""
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
        reserved=record.reserved,
        named=True,
        path=os.path.join(root, name) if root is not None else "",
        memory_bytes=status.st_blocks * 512 if facts is None else facts.memory_bytes,
        shared_table_bytes=None if facts is None else facts.table_bytes,
        charged_bytes=None if facts is None else facts.charged_bytes,
        huge_pages=None if facts is None else facts.huge_pages,
        huge_fallbacks=None if facts is None else facts.huge_fallbacks,
    )


def _candidates() -> Iterator[tuple[roots.Root, str]]:
    """Yield every name that a region may have, in each root that can be listed, in order."""
    for root in roots.present():
        if os.access(root.path, os.R_OK, effective_ids=True):
            for name in sorted(os.listdir(root.path)):
                with suppress(InvalidNameError):
                    yield root, check_name(name)


def entry_in(root: roots.Root, name: str) -> RootEntry | None:
    """Return the file of that name; None if the file is gone, or not an ordinary file of that root."""
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
    """A region under a root. The entry is valid until the next one is read."""

    entry: RootEntry
    record: Record
    locked: bool
    """True if a process is attached."""
    facts: RegionFacts | None
    """The answers of msharefs about the file."""


def records() -> Iterator[Found]:
    """Yield every region this process may read. Costs a few system calls per file in the roots, and nothing per
    attached process."""
    for root, name in _candidates():
        entry = entry_in(root, name)
        if entry is None:
            continue
        with entry.descriptor, suppress(AccessDeniedError, NotARegionError, RegionBusyError):
            with entry.open(writable=False) as fd:
                found = Found(entry, read_record(name, fd), is_attached(fd), region_facts(fd))
            yield found


def known_records() -> Iterator[Record]:
    """Yield the record of every region that this process may read or has read before. Opens only unknown files."""
    for root, name in _candidates():
        try:
            known = entry_of.remembered.get(entry_of.version(os.stat(root.prefix + name, follow_symlinks=False)))
            if known is None and (entry := entry_in(root, name)) is not None:
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

    `pids` has the processes whose maps this process may read. `orphan` is right for all processes. Costs one pass over
    the roots and, if there is any region, one over /proc.
    """
    return [info for info, _ in listed()]


def listed() -> list[tuple[RegionInfo, FileId]]:
    """Return `regions()`, each with its file, because a name may mean another file a moment later."""
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
    """Return `info` with the processes found in /proc, which also show users of the file that take no lock."""
    return info._replace(pids=pids, orphan=info.orphan and not pids)


def spans_in_use() -> list[Span]:
    """Return the addresses at which processes have files of the roots mapped, with a name or without, as far as this
    process may look. Costs one pass over /proc."""
    devices = {root.dev for root in roots.present()}
    found = [vma.span for _, vma in proc.mappings_of(lambda file: file.dev in devices)]
    return [attachment_span(span.end - span.start, span.start) for span in found]


@limits.named
def held_regions() -> list[HeldRegion]:
    """Return the regions without a name that processes still hold, in order of name: older versions and removed ones.

    Regions that are just being made, and those of `create_anonymous(linkable=True)`, are among them; a memfd is not. A
    process of another mount namespace that has the root at another path, and a C program that takes no lock, are not
    seen. The cost is one pass over /proc if there is any such region. Raises `BackendUnavailableError` if /proc/locks
    is hidden from this process.
    """
    devices = {root.dev: root for root in roots.present()}
    try:
        locked = {file for file in proc.locked_files(ATTACHED_BYTE) if file.dev in devices}
    except OSError as error:
        limits.reraise(error)
        raise roots.hidden_proc(error) from error
    nameless = locked - _named_files()
    users: dict[FileId, list[tuple[int, Vma]]] = {}
    if nameless:
        where = {root.dev: os.path.realpath(root.path) for root in devices.values()}
        for pid, vma in proc.mappings_of(nameless.__contains__):
            directory, name = os.path.split(unescape(vma.path))
            if directory == where[vma.file.dev] and name.endswith(_DELETED):
                users.setdefault(vma.file, []).append((pid, vma))
    return sorted(_held(devices[file.dev], some) for file, some in users.items())


def _named_files() -> set[FileId]:
    """Return every file that has a name in a root, even a file that this process may not read."""
    found = set()
    for root in roots.present():
        with suppress(PermissionError), os.scandir(root.path) as entries:  # a root that one may search, but not list
            found |= {FileId(root.dev, entry.inode()) for entry in entries}
    return found


def _held(root: roots.Root, users: list[tuple[int, Vma]]) -> HeldRegion:
    names = {os.path.basename(unescape(vma.path)).removesuffix(_DELETED) for _, vma in users}
    name = min((name for name in names if not name.startswith("#")), default="")
    first = min(users)[1].span
    return HeldRegion(
        name,
        first.end - first.start,
        first.start,
        tuple(sorted({pid for pid, _ in users})),
        bool(name) and os.path.lexists(root.prefix + name),
    )
