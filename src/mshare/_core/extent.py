"""The memory of a range of a region: taken now, given back, counted by node. May depend on: backend, backends, limits,
numa, handle, linux, errors, units, geometry, record, entry, names.

Facts: other processes may store into the range at any time.
Consequence: memory that was taken cannot be given back when a later part fails. A look that finds zeros, and then a
removal, would lose a store in between.
Decision: the kernel takes all of a range or nothing, in one call (`Backend.take`). What can be known beforehand is
checked beforehand.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator

from . import backends, entry, limits, names
from .backend import Backend
from .errors import AccessDeniedError, BackendUnavailableError, InvalidSizeError, NoSpaceError
from .geometry import PAGE, PUD, Span, pick_address, round_up
from .handle import Handle
from .linux import libc, mempolicy, proc
from .linux.ioctl import region_facts
from .numa import Placement
from .record import RECORD_SIZE, Record, file_size
from .units import format_apart, format_size, whole

_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.EBADF, errno.EOPNOTSUPP)
"""The file is sealed, or has protected pages; the descriptor is map-only (msharefs)."""
_PRESENT = bytes(value & 1 for value in range(256))
"""The lowest bit of each byte of mincore(2)."""


def span_of(record: Record, offset: int, length: int | None) -> Span:
    """Return the bytes of the region that a caller means. Raises `InvalidSizeError` if they are not all there."""
    start = whole(offset, "an offset, in bytes,")
    end = record.size_bytes if length is None else start + whole(length, "a length, in bytes,")
    if not 0 <= start <= end <= record.size_bytes:
        raise InvalidSizeError(
            f"bytes {start} to {end} are not a range of a region of {record.size_bytes} bytes",
            "give an offset of at least 0, and a length that ends within the region",
        )
    return Span(start, end)


def memory_bytes(fd: int) -> int:
    """Return the bytes of memory that the pages of the open file have, the record included."""
    facts = region_facts(fd)
    return os.fstat(fd).st_blocks * 512 if facts is None else facts.memory_bytes


def populate(fd: int, addr: int, record: Record, span: Span, placement: Placement, label: str) -> None:
    """Give all pages of `span` memory, or none. `addr`: the address of the region's first byte, mapped read-write.

    Raises `NoSpaceError`, `BackendUnavailableError`, `AccessDeniedError`.
    """
    status = os.fstat(fd)
    placement.check_file_system(status.st_dev)
    unit = record.file_unit
    start, end = span.start - span.start % unit, min(round_up(span.end, unit), status.st_size)
    if span.start == span.end:
        return
    # Memory beyond the end of the file counts as well (a huge page at the end, fallocate(2) with KEEP_SIZE): no figure
    # says that the range has all its memory.
    resident = memory_bytes(fd)
    missing = max(0, min(end - start, round_up(status.st_size, PAGE) - resident))
    backend = _backend(record, named=bool(status.st_nlink))
    if unit == PAGE:  # hugetlbfs does not tell which pages there are, and compares by itself before it takes any
        free = backend.space(placement.node).free_bytes
        if backend.charge(missing) > free >= backend.charge(max(0, end - start - resident)):
            missing = min(missing, end - start - sum(_counts(addr, Span(start, end))))  # 20 ms per GiB
        if backend.charge(missing) > free:
            raise _no_space(label, missing, backend, placement)
    try:
        placement.run(backend.take, fd, start, end, addr)
    except OSError as error:
        if error.errno in _FORBIDDEN:
            raise AccessDeniedError(
                f"this handle may add no memory to {label}", "use a handle with all rights"
            ) from error
        if not limits.is_out_of_room(error):
            raise
        raise _no_space(label, missing, backend, placement, error) from error


def _backend(record: Record, *, named: bool) -> Backend:
    kinds = backends.ALL if named else backends.NAMELESS
    found = next((each for each in kinds if each.name == record.backend), None)
    if found is None:
        raise BackendUnavailableError(
            f"this version of mshare has no backend {record.backend!r}", "use the version that made the region"
        )
    return found


def _counts(addr: int, span: Span) -> Iterator[int]:
    """Yield the number of bytes in memory for each GiB of the range. A page in swap, or one that was reserved and never
    touched, is not counted."""
    for at in range(span.start, span.end, PUD):
        length = min(PUD, span.end - at)
        yield libc.mincore(addr + at, length).translate(_PRESENT).count(1) * PAGE


def _no_space(
    label: str, missing: int, backend: Backend, placement: Placement, error: OSError | None = None
) -> NoSpaceError:
    space = backend.space(placement.node)
    need, free = format_apart(missing, space.free_bytes)
    if error is not None and missing <= space.free_bytes:
        why = f"which the kernel refused ({error.strerror}) although {free} can be had ({space.limit})"
    else:
        why = f"but only {free} can be had ({space.limit})"
    return NoSpaceError(
        f"the range of {label} needs up to {need} more on {backend.name}, {why}",
        "populate less, discard some, remove regions (mshare ls, mshare gc), or raise that limit",
    )


def discard(addr: int, record: Record, span: Span, label: str, reopen: Callable[[], Handle]) -> None:
    """Give the memory of `span` back to the system; the bytes are zero from then on. `addr`: as for `populate`.
    `reopen` opens the region's file, which is needed only if this process has locked its memory.

    Raises `InvalidSizeError` if the ends are not those of pages, `AccessDeniedError` if the kernel forbids the change.
    """
    unit = record.file_unit
    at_end = span.end == record.size_bytes
    if span.start % unit or (span.end % unit and not at_end):
        raise InvalidSizeError(
            f"bytes {span.start} to {span.end} of {label} are not whole pages of {format_size(unit)}",
            f"give multiples of {unit}, or a length that ends with the region",
        )
    if span.start == span.end:
        return
    pages_end = file_size(record.size_bytes, unit) - RECORD_SIZE
    pages_end -= pages_end % unit  # hugetlb: the last page may hold the record, and then only its bytes are cleared
    end = min(round_up(span.end, unit), pages_end)
    try:
        if span.start < end:
            _remove(addr, span.start, end - span.start, reopen)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise AccessDeniedError(
            f"the kernel lets nobody remove pages of {label} here: it is sealed, protected or given out map-only",
            "write zeros where that is allowed",
        ) from error
    if span.end > pages_end:
        ctypes.memset(addr + max(span.start, pages_end), 0, span.end - max(span.start, pages_end))


def _remove(addr: int, start: int, length: int, reopen: Callable[[], Handle]) -> None:
    try:
        libc.madvise(addr + start, length, libc.MADV_REMOVE)  # which needs no descriptor
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with reopen() as handle:  # madvise(2) leaves memory alone that the process has locked (mlockall)
            libc.fallocate(handle.fileno(), _PUNCH_HOLE | _KEEP_SIZE, start, length)


UNKNOWN = -1
"""The key of `by_node` for memory whose node the kernel does not tell."""


def by_node(name: str) -> dict[int, int]:
    """Return the bytes of a region's memory on each memory node that has some, its record included.

    With several nodes the cost is about 0.1 s per GiB of small pages. Pages that were reserved and never touched are
    cleared by that. Raises the errors of `names.find` and `entry.open`, and `OSError`.
    """
    with names.find(name) as found, found.open(writable=False) as fd:
        record = entry.read_record(name, fd)
        nodes = mempolicy.listed("has_memory")
        total = memory_bytes(fd)
        if len(nodes) < 2:
            return {nodes[0] if nodes else 0: total}
        counts = Counter[int]()
        unit, size = record.file_unit, os.fstat(fd).st_size
        complete = record.reserved and total >= size
        if complete or (unit == PAGE and _tells_truth(fd)):
            for at in range(0, size, PUD) if complete else _windows(fd, size):
                counts.update(_window(fd, at, min(PUD, size - at), record, complete=complete))
        rest = total - counts.total()
        return {**dict(sorted(counts.items())), **({UNKNOWN: rest} if rest > 0 else {})}


def _tells_truth(fd: int) -> bool:
    """Tell whether mincore(2) answers about the file. To a user who neither owns a file nor may write to it, the kernel
    says that every page is in memory (Linux 5.2, commit 134fca9063ad)."""
    return os.geteuid() in (0, os.fstat(fd).st_uid) or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)


def _windows(fd: int, size: int) -> Iterator[int]:
    """Yield the offset of each GiB of the file that has data: a file can have terabytes of holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA) // PUD * PUD
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        yield at
        at += PUD


def _window(fd: int, at: int, length: int, record: Record, *, complete: bool) -> Counter[int]:
    """Count the bytes by node in one GiB of the file. Only pages that exist are touched: a touch of another would take
    memory."""
    unit = record.file_unit
    mapped = round_up(length, record.map_unit)
    addr = pick_address(os.getpid(), mapped, (vma.span for vma in proc.maps()))
    held: list[int] = []
    counts = Counter[int]()
    try:
        libc.mmap_into(held, fd, mapped, writable=False, addr=addr, offset=at)
        base = held[0]
        there = b"\1" * (length // PAGE) if complete else libc.mincore(base, length).translate(_PRESENT)
        for start, end in _runs(there):
            try:
                libc.madvise(base + start * PAGE, (end - start) * PAGE, libc.MADV_POPULATE_READ)
            except OSError:  # another process has just given the memory back
                continue
            found = mempolicy.nodes_of(range(base + start * PAGE, base + end * PAGE, unit))
            for node, pages in Counter(found).items():
                if node >= 0:
                    counts[node] += pages * unit
    finally:
        libc.munmap_from(held, mapped)
    return counts


def _runs(there: bytes) -> Iterator[tuple[int, int]]:
    """Yield the first page and the page behind the last one of each run of ones."""
    end = 0
    while (start := there.find(1, end)) >= 0:
        end = there.find(0, start)
        end = len(there) if end < 0 else end
        yield start, end
