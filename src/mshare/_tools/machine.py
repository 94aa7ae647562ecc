"""The facts about this machine, which `findings` judges.

May depend on: findings, backend, backends, linux, errors, units, geometry, record, roots.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from .._core import backends, roots
from .._core.backend import Availability, Request, choose, explain
from .._core.errors import InvalidSizeError, MshareError
from .._core.geometry import USER_END, WINDOW, Span
from .._core.linux import proc
from .._core.linux.memory import cgroup_room, hidden_cgroup, memory_room
from .._core.linux.mounts import mount_under
from .._core.record import file_size
from .._core.units import format_size
from .findings import BackendFacts, HugePool, MachineFacts, Place, RemoveIpc, parse_remove_ipc

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_THP = Path("/sys/kernel/mm/transparent_hugepage")
_NO_LIMIT = 1 << 60
"""A version 1 control group without a limit says 8 EiB."""
_LOGIND_DIRS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
"""The directories of logind.conf and logind.conf.d/*.conf, most important first (logind.conf(5))."""


def inspect(size: int) -> MachineFacts:
    """Look at this machine as a process that wants a region of `size` bytes. Changes nothing; costs milliseconds."""
    if not 1 <= size <= USER_END // 2:
        raise InvalidSizeError(f"invalid size of {size} bytes", f"use 1 byte to {format_size(USER_END // 2)}")
    kernel = os.uname()
    chosen, why = _chosen(size)
    room, group = memory_room(), cgroup_room()
    return MachineFacts(
        size=size,
        kernel=f"{kernel.sysname} {kernel.release} {kernel.machine}",
        uid=os.geteuid(),
        backends=tuple(_backend_facts(size)),
        chosen=chosen,
        why=why,
        pool=_huge_pool(),
        thp_enabled=_selected(_THP / "enabled"),
        thp_shmem=_selected(_THP / "shmem_enabled"),
        place=_place(),
        remove_ipc=_remove_ipc(),
        memory_free=room.free_bytes,
        memory_limit=room.limit,
        cgroup_free=None if group is None or group.free_bytes >= _NO_LIMIT else group.free_bytes,
        cgroup_limit="" if group is None else group.limit,
        cgroup_hidden=hidden_cgroup(),
        overcommit=_number(Path("/proc/sys/vm/overcommit_memory")),
        address_limit=_limit(resource.RLIMIT_AS),
        file_limit=_limit(resource.RLIMIT_FSIZE),
        lock_limit=_limit(resource.RLIMIT_MEMLOCK),
        window_free=_window_free(),
    )


def _window_free() -> int | None:
    try:
        return largest_gap(Span(*WINDOW), [vma.span for vma in proc.maps()])
    except OSError:
        return None


def _chosen(size: int) -> tuple[str | None, str]:
    if not proc.is_mounted():
        return None, str(roots.no_proc())
    forced = os.environ.get("MSHARE_BACKEND") or None
    try:
        choice = choose(backends.ALL, Request(size), forced)
    except MshareError as error:
        return None, str(error)
    backend = choice.candidates[0]
    return backend.name, explain(backend, choice.rejected, forced=forced is not None)


def _backend_facts(size: int) -> list[BackendFacts]:
    found = []
    absent = roots.no_proc()
    no_proc = Availability(False, absent.problem, absent.hint)
    for backend in backends.ALL:
        available = backend.availability() if proc.is_mounted() else no_proc
        try:
            space = backend.space() if available.usable else None
        except OSError:
            space = None
        root = backend.root()
        found.append(
            BackendFacts(
                backend.name,
                available.usable,
                available.reason,
                available.remedy,
                None if root is None else str(root),
                backend.capabilities.file_unit,
                0 if space is None else space.free_bytes,
                "" if space is None else space.limit,
                backend.charge(file_size(size, backend.capabilities.file_unit)),
            )
        )
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _huge_pool() -> HugePool | None:
    numbers = [_number(_POOL / f"{name}_hugepages") for name in ("nr", "free", "resv", "nr_overcommit")]
    known = [number for number in numbers if number is not None]
    return HugePool(*known) if len(known) == len(numbers) else None


def _selected(path: Path) -> str | None:
    """Return the word in brackets of a file like `always [madvise] never`."""
    try:
        return path.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return None


def _place() -> Place | None:
    root = backends.BASELINE.root()
    if root is None:
        return None
    try:
        status = os.statvfs(root)
    except OSError:
        return None
    mount = mount_under(root)
    return Place(
        str(root),
        "" if mount is None else mount.mount_point,
        "unknown" if mount is None else mount.fs_type,
        status.f_blocks * status.f_frsize,
        status.f_bavail * status.f_frsize,
    )


def _remove_ipc() -> RemoveIpc | None:
    """Return what logind is told, or None where there is no logind."""
    if not Path("/run/systemd/system").is_dir():
        return None
    texts = []
    for path in logind_files([Path(directory) for directory in _LOGIND_DIRS]):
        try:
            texts.append((str(path), path.read_text(errors="replace")))
        except OSError:
            continue
    return parse_remove_ipc(texts)


def logind_files(directories: Sequence[Path]) -> list[Path]:
    """Return logind's configuration files in the order in which they are read; a later one wins.

    The first `logind.conf` in `directories` (most important first), then all drop-ins by name, of each name the most
    important one.
    """
    main = next((path for path in (directory / "logind.conf" for directory in directories) if path.is_file()), None)
    drop_ins: dict[str, Path] = {}
    for directory in reversed(directories):
        drop_ins.update({path.name: path for path in (directory / "logind.conf.d").glob("*.conf")})
    return ([main] if main else []) + [drop_ins[name] for name in sorted(drop_ins)]


def _limit(which: int) -> int | None:
    soft = resource.getrlimit(which)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def largest_gap(window: Span, taken: Sequence[Span]) -> int:
    """Return the largest run of free bytes in `window`."""
    largest, at = 0, window.start
    for span in sorted(taken):
        if span.end <= at or span.start >= window.end:
            continue
        largest = max(largest, span.start - at)
        at = span.end
    return max(largest, window.end - at)
