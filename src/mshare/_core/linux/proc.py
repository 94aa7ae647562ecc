"""Reading /proc: the files behind `procfs`'s parsers. May depend on: descriptors, files,
geometry, procfs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ..geometry import Span
from ..procfs import FileId, Vma, parse_fields_kb, parse_locks, parse_maps_line, parse_stat_faults
from .descriptors import Descriptor
from .files import read_bytes

_PART_BYTES = 1 << 14

_NOT_FOR_US = (FileNotFoundError, ProcessLookupError, PermissionError)
"""The errors of reading about a process that is gone or unreadable. Every other error, such as a lack of descriptors,
is raised: a process that is left out may be the one that matters."""


def is_mounted() -> bool:
    """Tell whether there is a /proc. Without a /proc, a file without a name cannot be given one."""
    return os.path.exists("/proc/self/fd")


def process_ids() -> Iterator[int]:
    """Yield the ids of the processes that exist now; some may be gone when you look."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def maps(pid: int | str = "self") -> Iterator[Vma]:
    """Yield the mappings of a process, in address order. Raises `OSError` if the process is gone or unreadable.

    The text is read part by part, because a process at its limit of mappings cannot get memory for the whole text.
    """
    rest = b""
    with Descriptor(f"/proc/{pid}/maps", os.O_RDONLY) as fd:
        while part := os.read(fd, _PART_BYTES):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if (vma := parse_maps_line(line)) is not None:
                    yield vma


def status_fields(pid: int | str = "self") -> dict[str, int]:
    """Return the numbers of /proc/PID/status; `VmPTE` (bytes of page tables of this process) among them."""
    return parse_fields_kb(read_bytes(f"/proc/{pid}/status"))


def memory_fields() -> dict[str, int]:
    """Return the numbers of /proc/meminfo in bytes (`HugePages_*` in pages)."""
    return parse_fields_kb(read_bytes("/proc/meminfo"))


def max_map_count() -> int:
    """Return how many mappings a process may have (`vm.max_map_count`). Raises `OSError`."""
    return int(read_bytes("/proc/sys/vm/max_map_count"))


def refresh_counters() -> bool:
    """Bring `PageTables` and similar figures of /proc/meminfo up to date. Without root, do nothing and return False.

    Each CPU has its own count, and adds it to the total once per `vm.stat_interval` (1 s), or when root reads
    vm.stat_refresh (mm/vmstat.c). Without this call the figures lag by up to half a megabyte per CPU.
    """
    try:
        read_bytes("/proc/sys/vm/stat_refresh")
    except OSError:
        return False
    return True


def minor_faults(pid: int | str = "self") -> int:
    """Return the minor faults the process has taken."""
    return parse_stat_faults(read_bytes(f"/proc/{pid}/stat"))


def processes_mapping(files: set[FileId]) -> dict[FileId, tuple[int, ...]]:
    """Return, for each of `files`, the processes that map it, in order. Unreadable processes are absent.

    Cost: reads every readable /proc/PID/maps once, for any number of files.
    """
    found: dict[FileId, dict[int, None]] = {file: {} for file in files}
    if files:
        for pid, vma in mappings_of(files.__contains__):
            found[vma.file][pid] = None
    return {file: tuple(pids) for file, pids in found.items()}


def mappings_of(files: Callable[[FileId], bool]) -> Iterator[tuple[int, Vma]]:
    """Yield each mapping, with its process, of the files that `files` accepts, as far as this process may look."""
    for pid in sorted(process_ids()):
        try:
            found = [vma for vma in maps(pid) if files(vma.file)]
        except _NOT_FOR_US:
            continue
        yield from ((pid, vma) for vma in found)


def locked_files(offset: int) -> set[FileId]:
    """Return the files on which any open file description holds a lock from byte `offset` on. Raises `OSError`."""
    return parse_locks(read_bytes("/proc/locks"), offset)


def writers(file: FileId) -> tuple[int, ...]:
    """Return the processes that map `file` and can write through the mapping, as far as this process may look."""
    return tuple(dict.fromkeys(pid for pid, vma in mappings_of(file.__eq__) if "w" in vma.perms))


def mapping_in_the_way(wanted: Span) -> Vma | None:
    """Return this process's first mapping that overlaps `wanted`."""
    return next((vma for vma in maps() if vma.span.overlaps(wanted)), None)
