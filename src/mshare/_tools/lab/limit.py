"""The memory that the load may take before the kernel kills: the whole machine's, or a control group's. May depend on:
linux, procfs, errors, roots, measure, run.

Page tables are charged to the memory control group of the process that needs them. Shared pages are charged to the
group of the process that touches them first. A private group therefore runs out of memory as a machine of that size
would, and the kernel kills only processes in the group. Huge pages of hugetlbfs are not charged to the group. The lab
uses a group, unless the caller wants the machine itself (a guest).

May depend on: run, linux, measure, errors, procfs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENOTSUP
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..._core.errors import AccessDeniedError, BackendUnavailableError
from ..._core.linux import libc, proc
from ..._core.procfs import parse_cgroup
from ..._core.roots import hidden_proc
from ...measure.cost import page_tables_bytes
from .run import MACHINE, V1, V2

_CGROUPS = Path("/sys/fs/cgroup")
_GONE_LIMIT_S = 30.0


class Reading(NamedTuple):
    """The memory at one moment, in bytes."""

    page_tables: int
    free: int
    """`MemAvailable` of the machine, or the memory that the group may still take."""


class Limit(NamedTuple):
    """The limit, and the ways to look at it."""

    kind: str
    """`MACHINE`, `V2` or `V1`."""
    limit_bytes: int
    group: Path | None = None

    def enter(self, pid: int) -> None:
        """Put a process, and its future forks, under the limit."""
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(pid))

    def read(self) -> Reading:
        """Return the memory that is used and free now.

        Page tables are `PageTables` of /proc/meminfo for the machine, and `pagetables` of memory.stat for a group of
        v2. A group of v1 has no such figure. Its page tables are the sum of its processes' `VmPTE`. That sum counts
        tables that hugetlb shares in each process, and does not count the tables of msharefs, which are the region's.
        """
        if self.group is None:
            tables = page_tables_bytes()
            return Reading(tables, proc.memory_fields()["MemAvailable"])
        if self.kind == V2:
            lines = (line.split() for line in (self.group / "memory.stat").read_text().splitlines())
            stat = {name: int(number) for name, number in lines}
            return Reading(stat["pagetables"], self.limit_bytes - int((self.group / "memory.current").read_text()))
        used = int((self.group / "memory.usage_in_bytes").read_text())
        return Reading(sum(map(_vmpte, self._processes())), self.limit_bytes - used)

    def _processes(self) -> list[str]:
        assert self.group is not None
        return (self.group / "cgroup.procs").read_text().split()

    def oom_kills(self) -> int:
        """Return the number of processes that the kernel has killed for lack of memory under this limit."""
        if self.group is None:
            text = Path("/proc/vmstat").read_text()
        else:
            file = "memory.events" if self.kind == V2 else "memory.oom_control"
            text = (self.group / file).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


def _vmpte(pid: str) -> int:
    try:
        return proc.status_fields(pid)["VmPTE"]
    except (OSError, KeyError):  # gone since, or a zombie
        return 0


def quiet(limit: Limit, *, seconds: float = 30.0) -> int:
    """Return the bytes of page tables once they no longer fall, or after so long. Fact: tables leave the machine's
    count an RCU grace period after their mappings are gone; `VmPTE` goes with the process."""
    deadline = time.monotonic() + seconds
    last = limit.read().page_tables
    while time.monotonic() < deadline:
        time.sleep(0.05 if limit.kind == V1 else 0.3)
        now = limit.read().page_tables
        if now >= last:
            return now
        last = now
    return last


@contextmanager
def whole_machine() -> Iterator[Limit]:
    """Let the machine itself run out of memory, and keep the kernel from killing this process and its children.

    The kernel can drop mapped pages of programs and read them again. A guest of 1 GiB with 131 clients and no memory
    left did so for minutes, over 9P, instead of killing a client. The programs of this process, which are also those of
    the clients, are therefore locked in memory.

    Raises `AccessDeniedError` if that is not allowed, `BackendUnavailableError` if the machine would stop.
    """
    try:
        panics = Path("/proc/sys/vm/panic_on_oom").read_text().strip() != "0"
    except FileNotFoundError as error:
        raise hidden_proc(error) from error
    if panics:
        raise BackendUnavailableError("vm.panic_on_oom is set: the machine would stop", "sysctl vm.panic_on_oom=0")
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    try:
        score.write_text("-1000")
        libc.lock_memory()
    except OSError:
        with suppress(OSError):  # nor may it perhaps write this
            score.write_text(before)
        raise AccessDeniedError(
            "this process may not keep the kernel from killing it for lack of memory, or from dropping its programs",
            "run it as root (CAP_SYS_RESOURCE, CAP_IPC_LOCK)",
        ) from None
    try:
        yield Limit(MACHINE, proc.memory_fields()["MemTotal"])
    finally:
        libc.unlock_memory()
        score.write_text(before)


@contextmanager
def control_group(limit_bytes: int) -> Iterator[Limit]:
    """Give a private memory control group, without swap, and remove the group at the end.

    Raises `BackendUnavailableError` if this process cannot have a group.
    """
    name = f"mshare-lab-{os.getpid()}"
    places = list(_places())
    try:
        kind, group = _make(places, name)
        _set(group, "memory.max" if kind == V2 else "memory.limit_in_bytes", limit_bytes)
        swap = "memory.swap.max" if kind == V2 else "memory.memsw.limit_in_bytes"
        if (group / swap).exists():
            _set(group, swap, 0 if kind == V2 else limit_bytes)
        yield Limit(kind, limit_bytes, group)
    finally:
        for _, place in places:  # a signal can end `_make` after the group is made, before anybody knows the group
            _remove(place / name)


def _set(group: Path, name: str, number: int) -> None:
    (group / name).write_text(str(number))


def _places() -> Iterator[tuple[str, Path]]:
    """Yield the places for a new group: below this process's own. On v2 a group that holds processes gives its children
    no limits, unless the group is the root. The place is then beside ours, or further up."""
    try:
        groups = parse_cgroup(Path("/proc/self/cgroup").read_bytes())
    except FileNotFoundError as error:
        raise hidden_proc(error) from error
    for controllers, path in groups:
        if "memory" in controllers:
            yield V1, _CGROUPS / "memory" / path.lstrip("/")
            return
    own = next((path for controllers, path in groups if not controllers), "/")
    here = PurePosixPath(own)
    for level in (here, *here.parents):
        yield V2, _CGROUPS / str(level).lstrip("/")


def _make(places: Sequence[tuple[str, Path]], name: str) -> tuple[str, Path]:
    """Make the group at the first place that allows it. Raises `BackendUnavailableError`."""
    refused = os.strerror(ENOTSUP)
    for kind, place in places:
        try:
            control = place / "cgroup.subtree_control"
            if kind == V2 and "memory" not in control.read_text().split():
                control.write_text("+memory")
            (place / name).mkdir()
        except OSError as error:
            refused = error.strerror or refused
        else:
            return kind, place / name
    raise BackendUnavailableError(
        f"no memory control group can be made here ({refused})",
        "run it as root where control groups can be changed, or in a virtual machine with --whole-machine",
    )


def _remove(group: Path) -> None:
    """Remove the group when its last process, killed already, has gone. Others, such as systemd when it ends a unit,
    may have removed the group before."""
    deadline = time.monotonic() + _GONE_LIMIT_S
    while True:
        try:
            return group.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
