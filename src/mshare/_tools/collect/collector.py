"""Takes a `Snapshot` of who maps what on this machine.

May depend on: objects, system, linux, scan, geometry, procfs, roots.

Everything about a process is read through one descriptor of its directory (`linux.process`). /proc/PID/maps is not
atomic: a process that maps during the read is seen half before, half after.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from ..._core.geometry import PAGE, PMD, USER_END
from ..._core.linux.pagemap import Scanner, is_missing, read_blocks
from ..._core.linux.proc import process_ids
from ..._core.linux.process import ProcessDirectory
from ..._core.procfs import FileId, parse_cgroup, parse_maps_line, parse_smaps, parse_status
from ..._core.roots import hidden_proc
from ..scan.snapshot import Area, Filled, Process, Snapshot
from .objects import Objects
from .system import blindness, system, user

Progress = Callable[[int, int], None]


class Choice(NamedTuple):
    """Which processes to read; None for all."""

    pids: Collection[int] | None = None
    uid: int | None = None
    keep: Callable[[int, str], bool] | None = None
    """Of all processes those for which this is true, given a pid and a command."""


def collect(
    *,
    choice: Choice | None = None,
    exact: bool = False,
    regions: Mapping[FileId, str] | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Return what the processes on this machine map, as far as this one may look.

    `exact` also walks their page tables: 3 ns per entry, so 0.25 s for each process that has 300 GiB mapped with 4 KiB
    leaves. `regions` has the names of mshare's own, `progress` is called with the processes done and to do. Processes
    that end in the meantime are counted; a chosen pid that is not there raises `ProcessLookupError`.
    Where /proc is absent or hides what concerns the machine, `BackendUnavailableError` names the file.
    """
    try:
        return _Collector(choice or Choice(), exact, regions or {}).collect(progress)
    except FileNotFoundError as error:
        raise hidden_proc(error) from error


class _Collector:
    """One snapshot in the making."""

    def __init__(self, choice: Choice, exact: bool, regions: Mapping[FileId, str]) -> None:
        self.choice = choice
        self.exact = exact
        self.objects = Objects(regions)
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
            system=system(tuple(self._blindness())),
            objects=self.objects.finished(self._leaves(processes)),
            processes=tuple(processes),
            users={uid: name for uid in {each.uid for each in processes} if (name := user(uid)) is not None},
            vanished=self.vanished,
            exact=self.exact,
            partial=self.choice != Choice(),
        )

    def _blindness(self) -> Iterator[str]:
        """Yield why there may be processes that nothing here shows."""
        yield from blindness()
        if self.hidden:
            yield f"{self.hidden} processes of other users may not be looked at at all (hidepid)"
        for pid in self.without_memory:
            yield f"process {pid} has no memory of its own: a kernel thread, or it has ended"

    def _process(self, pid: int) -> Process | None:
        """Return process `pid`, None if it has no memory or is not chosen."""
        with ProcessDirectory(f"/proc/{pid}") as here:
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
            if self.choice.keep is not None and not self.choice.keep(pid, status.name):
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

    def _areas(self, here: ProcessDirectory) -> tuple[Area, ...]:
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

    def _filled(self, here: ProcessDirectory, areas: tuple[Area, ...]) -> tuple[Filled, ...]:
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

    def _read(self, pagemap: int, areas: tuple[Area, ...], here: ProcessDirectory) -> list[Filled]:
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
            with ProcessDirectory(f"/proc/{pid}") as here:
                pagemap = here.open("pagemap")
                try:
                    return self.scanner.leaves(pagemap, area.start, area.end)
                finally:
                    os.close(pagemap)
        except OSError as error:  # gone, or not ours, or no such call
            if is_missing(error):
                self.scanner = None
            return set()


def _cgroup(here: ProcessDirectory) -> str:
    """Return the process's control group: of the unified hierarchy, or the longest path of the old ones."""
    try:
        groups = parse_cgroup(here.read("cgroup"))
    except OSError:
        return ""
    unified = next((each.path for each in groups if not each.controllers), "/")
    return unified if unified != "/" else max((each.path for each in groups), key=len, default="/")
