"""Takes a `Snapshot` of who maps what on this machine. May depend on: scan.snapshot, procfs, pagemap, proc.

*Facts.* /proc/PID is about one process, but the number can mean another one a moment later; a descriptor of that
directory never does: what is opened through it fails with ESRCH once its process is gone. *Decision.* One descriptor
per process, everything is read through it. /proc/PID/maps is not atomic: a process that maps meanwhile is seen half
before, half after.
"""

from __future__ import annotations

import mmap
import os
import platform
import pwd
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .._core.geometry import PAGE, PMD, PUD, USER_END
from .._core.linux.pagemap import Scanner, is_missing, read_blocks
from .._core.linux.proc import memory_fields, process_ids, refresh_counters
from .._core.procfs import (
    FileId,
    Mount,
    Status,
    Vma,
    parse_cgroup,
    parse_maps,
    parse_maps_line,
    parse_mountinfo,
    parse_smaps,
    parse_status,
)
from .scan.snapshot import PRIVATE, Area, Filled, Kind, Object, Process, Snapshot, System

SETTINGS = (
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/nr_overcommit_hugepages",
)
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/uapi/linux/nsfs.h, PID_NS_INIT_INO
_DELETED = " (deleted)"
_KERNELS_OWN = ("/memfd:", "/SYSV", "/anon_hugepage")

Progress = Callable[[int, int], None]


class Choice(NamedTuple):
    """Which processes to read; None for all."""

    pids: Collection[int] | None = None
    uid: int | None = None


def collect(
    *,
    choice: Choice | None = None,
    exact: bool = False,
    regions: Mapping[FileId, str] | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Return what the processes on this machine map, as far as this one may look.

    `exact` walks their page tables, too: 3 ns per entry, so 0.25 s for each process that has 300 GiB mapped with 4 KiB
    leaves. `regions` has the names of mshare's own, `progress` is called with the processes done and to do. Processes
    that end meanwhile are counted; a chosen pid that is not there raises `ProcessLookupError`.
    """
    return _Collector(choice or Choice(), exact, regions or {}).collect(progress)


class _Collector:
    """One snapshot in the making."""

    def __init__(self, choice: Choice, exact: bool, regions: Mapping[FileId, str]) -> None:
        self.choice = choice
        self.exact = exact
        self.objects = _Objects(regions)
        self.scanner: Scanner | None = Scanner()
        self.understood: dict[bytes, tuple[int, int, bool, bool]] = {}
        self.vanished = 0
        self.hidden = 0
        self.without_memory: list[int] = []
        """Chosen, but kernel threads or zombies."""

    def collect(self, progress: Progress | None) -> Snapshot:
        pids = sorted(process_ids() if self.choice.pids is None else self.choice.pids)
        processes = []
        for done, pid in enumerate(pids):
            if progress is not None:
                progress(done, len(pids))
            try:
                process = self._process(pid)
            except (FileNotFoundError, ProcessLookupError):
                if self.choice.pids is not None:
                    raise ProcessLookupError(3, f"there is no process {pid}") from None
                self.vanished += 1
                continue
            except PermissionError:  # /proc is mounted with hidepid=noaccess
                if self.choice.pids is not None:
                    raise
                self.hidden += 1
                continue
            if process is not None:
                processes.append(process)
            elif self.choice.pids is not None:
                self.without_memory.append(pid)
        return Snapshot(
            taken=time.time(),
            system=_system(tuple(self._blindness())),
            objects=self.objects.finished(self._leaves(processes)),
            processes=tuple(processes),
            users={uid: name for uid in {each.uid for each in processes} if (name := _user(uid)) is not None},
            vanished=self.vanished,
            exact=self.exact,
            partial=self.choice != Choice(),
        )

    def _blindness(self) -> Iterator[str]:
        """Yield why there may be processes that nothing here shows."""
        yield from _blindness()
        if self.hidden:
            yield f"{self.hidden} processes of other users may not be looked at at all (hidepid)"
        for pid in self.without_memory:
            yield f"process {pid} has no memory of its own: a kernel thread, or it has ended"

    def _process(self, pid: int) -> Process | None:
        """Return process `pid`, None if it has no memory or is not chosen."""
        with _Directory(f"/proc/{pid}") as here:
            try:
                status = parse_status(here.read("status"))
                if status.zombie:
                    status = here.living_thread(status)
            except ValueError:
                raise ProcessLookupError from None
            if status.tgid not in (0, pid):
                raise ProcessLookupError  # a thread: /proc answers to its number, too
            if status.vmpte is None or (self.choice.uid is not None and status.uid != self.choice.uid):
                return None
            try:
                areas = self._areas(here)
                filled = self._filled(here, areas) if self.exact else None
            except PermissionError:
                areas, filled = None, None
            return Process(
                pid,
                status.name,
                status.uid,
                _cgroup(here),
                status.pid_namespaces,
                status.vmpte,
                areas,
                filled,
            )

    def _areas(self, here: _Directory) -> tuple[Area, ...]:
        """Return the process's mappings. What follows the addresses in a line is the same in many processes: it is
        understood once."""
        areas = []
        for line in here.read("maps").split(b"\n"):
            addresses, _, rest = line.partition(b" ")
            known = self.understood.get(rest)
            if known is None:
                vma = parse_maps_line(line)
                if vma is None:
                    continue
                index, namespaced = self.objects.index(vma, here)
                known = (vma.offset, index, vma.perms.endswith("s"), vma.perms[1:2] == "w")
                if not namespaced:
                    self.understood[rest] = known
            start, _, end = addresses.partition(b"-")
            try:
                area = Area(int(start, 16), int(end, 16), *known)
            except ValueError:
                continue
            if area.start < USER_END:  # above is vsyscall, the kernel's own table
                areas.append(area)
        return tuple(areas)

    def _filled(self, here: _Directory, areas: tuple[Area, ...]) -> tuple[Filled, ...]:
        pagemap = here.open("pagemap")
        try:
            if self.scanner is not None:
                try:
                    return tuple(self._scanned(pagemap, areas))
                except OSError as error:
                    if not is_missing(error):
                        raise
                    self.scanner = None
            return tuple(self._read(pagemap, areas, here))
        finally:
            os.close(pagemap)

    def _scanned(self, pagemap: int, areas: tuple[Area, ...]) -> list[Filled]:
        assert self.scanner is not None
        found = []
        for index, area in enumerate(areas):
            leaf = self.objects.page(area.object)
            for start, end, huge in self.scanner.blocks(pagemap, area.start, area.end):
                found.append(Filled(start, end, index, leaf if leaf != PAGE else PMD if huge else PAGE))
        return found

    def _read(self, pagemap: int, areas: tuple[Area, ...], here: _Directory) -> list[Filled]:
        """The same without PAGEMAP_SCAN: how much is mapped by 2 MiB leaves is in smaps, where among the blocks that
        have all their entries is not; the first of them are taken, which changes no sum."""
        huge_bytes = {each.start: each.pmd_mapped for each in parse_smaps(here.read("smaps"))}
        found = []
        for index, area in enumerate(areas):
            leaf = self.objects.page(area.object)
            left = huge_bytes.get(area.start, 0)
            for start, end, full in read_blocks(pagemap, area.start, area.end):
                if leaf != PAGE:
                    found.append(Filled(start, end, index, leaf))
                    continue
                huge_end = start + min(left, end - start) if full else start
                left -= huge_end - start
                if huge_end > start:
                    found.append(Filled(start, huge_end, index, PMD))
                if end > huge_end:
                    found.append(Filled(huge_end, end, index, PAGE))
        return found

    def _leaves(self, processes: list[Process]) -> dict[int, set[int]]:
        """Return the leaf sizes of the objects: all where page tables were walked, else those at some places of the
        largest shared mapping of each object that could have 2 MiB leaves."""
        found: dict[int, set[int]] = {}
        largest: dict[int, tuple[int, int, Area]] = {}
        for process in processes:
            for each in process.filled or ():
                assert process.areas is not None
                found.setdefault(process.areas[each.area].object, set()).add(each.leaf)
            if self.exact:
                continue
            for area in process.areas or ():
                if area.shared and area.end - area.start >= PMD and self.objects.page(area.object) == PAGE:
                    best = largest.get(area.object)
                    weight = (process.vmpte, area.end - area.start)
                    if best is None or weight > (best[0], best[2].end - best[2].start):
                        largest[area.object] = (process.vmpte, process.pid, area)
        for index, (_, pid, area) in largest.items():
            found[index] = self._sample(pid, area)
        return found

    def _sample(self, pid: int, area: Area) -> set[int]:
        if self.scanner is None:
            return set()
        try:
            with _Directory(f"/proc/{pid}") as here:
                pagemap = here.open("pagemap")
                try:
                    return self.scanner.leaves(pagemap, area.start, area.end)
                finally:
                    os.close(pagemap)
        except OSError as error:  # gone, or not ours, or no such call
            if is_missing(error):
                self.scanner = None
            return set()


class _Directory:
    """A descriptor of /proc/PID, through which all its files are opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._prefix = ""
        self._fd = -1

    def __enter__(self) -> _Directory:
        self._fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def living_thread(self, status: Status) -> Status:
        """Return the status of a thread that has the process's memory, and read from that one from now on, if the main
        thread has ended and others go on; else `status`."""
        for tid in os.listdir(f"{self._path}/task"):
            with suppress(OSError, ValueError):
                other = parse_status(self.read(f"task/{tid}/status"))
                if other.vmpte is not None:
                    self._prefix = f"task/{tid}/"
                    return other
        return status

    def open(self, name: str) -> int:
        name = self._prefix + name
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)

    def read(self, name: str) -> bytes:
        fd = self.open(name)
        try:
            parts = []
            while part := os.read(fd, 1 << 16):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def namespace(self, name: str) -> int:
        """Return the number of one of its namespaces, 0 if it is not ours to see."""
        try:
            digits = os.readlink(f"ns/{name}", dir_fd=self._fd).partition("[")[2].rstrip("]")
        except OSError:
            return 0
        return int(digits) if digits.isdigit() else 0


class _Objects:
    """What was found mapped, each once, and what is needed to tell what it is."""

    def __init__(self, regions: Mapping[FileId, str]) -> None:
        self._regions = regions
        self._list: list[Object] = []
        self._indexes: dict[tuple[int, int, int], int] = {}
        self._mounts = _by_device(Path("/proc/self/mountinfo").read_bytes())
        self._internal = _internal_tmpfs()

    def index(self, vma: Vma, here: _Directory) -> tuple[int, bool]:
        """Return the index of what `vma` maps (`PRIVATE` for private anonymous memory), and whether the same text could
        mean something else in another process."""
        dev, ino = vma.file
        if dev == 0 and ino == 0:
            return PRIVATE, False
        sysv = vma.path.startswith(b"/SYSV") and dev not in self._mounts
        # shmids and inode numbers of the same mount overlap, and each IPC namespace counts its shmids from 0
        namespace = here.namespace("ipc") if sysv else -1
        key = (dev, ino, namespace)
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = len(self._list)
            self._list.append(self._make(vma, max(0, namespace), here))
        return index, sysv

    def page(self, index: int) -> int:
        """Return the bytes of the pages that object `index` is made of."""
        return PAGE if index == PRIVATE else self._list[index].page

    def finished(self, leaves: Mapping[int, set[int]]) -> tuple[Object, ...]:
        return tuple(
            each._replace(leaves=(each.page,) if each.page in (PMD, PUD) else tuple(sorted(leaves.get(index, ()))))
            for index, each in enumerate(self._list)
        )

    def _make(self, vma: Vma, namespace: int, here: _Directory) -> Object:
        # In maps the kernel escapes newlines and nothing else, backslashes neither.
        path = vma.path.replace(rb"\012", b"\n").decode("utf-8", "surrogateescape")
        kind, page = self._kind(vma, path, here)
        return Object(
            kind,
            vma.file.dev,
            vma.file.ino,
            namespace,
            path.removesuffix(_DELETED),
            path.endswith(_DELETED),
            page,
            self._regions.get(vma.file, ""),
        )

    def _kind(self, vma: Vma, path: str, here: _Directory) -> tuple[Kind, int]:
        dev = vma.file.dev
        if dev == self._internal:
            return "SysV" if path.startswith("/SYSV") else "memfd" if path.startswith("/memfd:") else "anonymous", PAGE
        mount = self._mounts.get(dev)
        if mount is None:  # another mount namespace's, or a mount of the kernel's own
            with suppress(OSError):
                for number, each in _by_device(here.read("mountinfo")).items():
                    self._mounts.setdefault(number, each)
            mount = self._mounts.get(dev)
        if mount is None:
            if path.startswith(_KERNELS_OWN):
                return "hugetlb", self._page_size(vma, here)
            return "device" if path.startswith(("anon_inode:", "/dev/")) else "file", PAGE
        match mount.fs_type:
            case "hugetlbfs":
                return "hugetlb", self._page_size(vma, here)
            case "tmpfs" | "ramfs":
                return "tmpfs", PAGE
            case "msharefs":
                return "msharefs", PAGE
            case "devtmpfs":
                return "device", PAGE
            case _:
                return "file", PAGE

    def _page_size(self, vma: Vma, here: _Directory) -> int:
        """Return the bytes of the huge pages under `vma`, 2 MiB if that cannot be read."""
        try:
            sizes = {each.start: each.page for each in parse_smaps(here.read("smaps"))}
        except OSError:
            return PMD
        return sizes.get(vma.span.start, PMD)


def _by_device(mountinfo: bytes) -> dict[int, Mount]:
    return {mount.dev: mount for mount in parse_mountinfo(mountinfo)}


def _internal_tmpfs() -> int:
    """Return the device number of the mount where the kernel keeps memfd, SysV and shared anonymous memory."""
    with mmap.mmap(-1, PAGE):
        for vma in parse_maps(Path("/proc/self/maps").read_bytes()):
            if vma.path == b"/dev/zero (deleted)":
                return vma.file.dev
    return 0


def _cgroup(here: _Directory) -> str:
    """Return the process's control group: of the unified hierarchy, or the longest path of the old ones."""
    try:
        groups = parse_cgroup(here.read("cgroup"))
    except OSError:
        return ""
    unified = next((each.path for each in groups if not each.controllers), "/")
    return unified if unified != "/" else max((each.path for each in groups), key=len, default="/")


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _system(blind: tuple[str, ...]) -> System:
    refresh_counters()
    settings = {}
    for path in SETTINGS:
        with suppress(OSError):
            settings[path] = Path(path).read_text().strip()
    return System(socket.gethostname(), platform.release(), memory_fields(), settings, blind)


def _blindness() -> list[str]:
    """Return why there may be processes that nothing here shows."""
    reasons = []
    proc = [
        each
        for each in parse_mountinfo(Path("/proc/self/mountinfo").read_bytes(), "proc")
        if each.mount_point == "/proc"
    ]
    hidden = {option for each in proc[-1:] for option in each.options if option.startswith("hidepid=")}
    if hidden - {"hidepid=0", "hidepid=off"} and os.geteuid() != 0:
        reasons.append(f"/proc is mounted with {min(hidden)}: processes of other users are not seen at all")
    with suppress(OSError):
        if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            reasons.append("this is not the machine's first PID namespace: processes outside of it are not seen at all")
    return reasons
