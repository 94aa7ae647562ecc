"""The meaning of a machine's facts for mshare, and the command that would change each fact. Pure. May depend on: units,
geometry, record.

Levels: `ok`; `advice`, where something better can be had or a trap lies; `problem`, where what was asked for fails or
data can be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .._core.geometry import PMD
from .._core.record import file_size
from .._core.units import MIB, format_apart, format_size

OK, ADVICE, PROBLEM = "ok", "advice", "problem"


class BackendFacts(NamedTuple):
    """A backend as it is here; see `backend.Availability` and `backend.Space`."""

    name: str
    usable: bool
    reason: str
    remedy: str
    root: str | None
    file_unit: int
    free_bytes: int
    limit: str
    needed_bytes: int
    """The part of `free_bytes` that a region of the machine's `size` would take."""


class HugePool(NamedTuple):
    """The pool of 2 MiB pages, in pages. Source: Documentation/admin-guide/mm/hugetlbpage.rst."""

    total: int
    free: int
    reserved: int
    overcommit: int


class Place(NamedTuple):
    """The tmpfs that holds the regions of `thp` and `shm`. `size_bytes` 0: no limit."""

    path: str
    mount_point: str
    fs_type: str
    size_bytes: int
    free_bytes: int


class RemoveIpc(NamedTuple):
    """logind's `RemoveIPC`, and the file that says so ("" if it is the default)."""

    enabled: bool
    source: str


@dataclass(frozen=True)
class MachineFacts:
    """Everything `doctor` looks at. Bytes, unless it says otherwise; None: no limit, or not there."""

    size: int
    kernel: str
    uid: int
    backends: tuple[BackendFacts, ...]
    chosen: str | None
    why: str
    pool: HugePool | None
    thp_enabled: str | None
    thp_shmem: str | None
    place: Place | None
    remove_ipc: RemoveIpc | None
    memory_free: int
    memory_limit: str
    cgroup_free: int | None
    cgroup_limit: str
    cgroup_hidden: str
    """The control group whose limit cannot be seen; "" if all can."""
    overcommit: int | None
    address_limit: int | None
    file_limit: int | None
    lock_limit: int | None
    window_free: int | None
    """None: not to be told, because /proc/self/maps cannot be read."""


class Finding(NamedTuple):
    """One sentence about the machine. `command` would change it; "" if nothing needs to change."""

    level: str
    topic: str
    text: str
    command: str = ""


def parse_remove_ipc(files: Sequence[tuple[str, str]]) -> RemoveIpc:
    """Return what logind makes of its configuration files, (path, text) each, a later one winning.

    Source: logind.conf(5): the default is yes.
    """
    found = RemoveIpc(True, "")
    for path, text in files:
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                section = line
            key, equals, value = line.partition("=")
            if section == "[Login]" and equals and key.strip() == "RemoveIPC":
                word = value.strip().lower()
                if not word:
                    found = RemoveIpc(True, "")
                elif word in ("yes", "y", "true", "t", "on", "1", "no", "n", "false", "f", "off", "0"):
                    found = RemoveIpc(word in ("yes", "y", "true", "t", "on", "1"), path)
    return found


def findings(machine: MachineFacts) -> list[Finding]:
    """Return what the facts mean, the most important first: backends, then what limits them."""
    return [
        Finding(OK, "kernel", machine.kernel),
        *_backends(machine),
        _choice(machine),
        *_pool(machine),
        _thp(machine),
        *_place(machine),
        _remove_ipc(machine),
        *_memory(machine),
        *_limits(machine),
    ]


def _backends(machine: MachineFacts) -> Iterator[Finding]:
    anything = any(backend.usable for backend in machine.backends)
    for backend in machine.backends:
        topic = f"backend {backend.name}"
        if backend.usable:
            yield Finding(
                OK,
                topic,
                f"usable, {backend.reason}; room for {format_size(backend.free_bytes)} ({backend.limit})",
            )
        else:
            remedy = backend.remedy.replace("nr_hugepages=N", f"nr_hugepages={_pool_needed(machine)}")
            command = remedy if remedy.startswith("sudo ") else ""  # else it is advice, and no shell's
            advice = "" if command or not remedy else f"; {remedy}"
            yield Finding(ADVICE if anything else PROBLEM, topic, f"not usable: {backend.reason}{advice}", command)


def _choice(machine: MachineFacts) -> Finding:
    asked = f"a region of {format_size(machine.size)}"
    if machine.chosen is None:
        return Finding(PROBLEM, "choice", f"{asked} cannot be created: {machine.why}")
    backend = next(backend for backend in machine.backends if backend.name == machine.chosen)
    if backend.needed_bytes > backend.free_bytes:
        need, free = format_apart(backend.needed_bytes, backend.free_bytes)
        takes = (
            f" and take {need} with its page tables"
            if backend.needed_bytes > file_size(machine.size, backend.file_unit)
            else ""
        )
        return Finding(
            PROBLEM,
            "choice",
            f"{asked} would go to {machine.chosen}{takes}, but only {free} can be had there ({backend.limit})",
        )
    return Finding(OK, "choice", f"{asked} would be on {machine.chosen} ({machine.why})")


def _pool_needed(machine: MachineFacts) -> int:
    """Pages the pool must have in all for a region of that size, what is in use now staying in use."""
    pages = file_size(machine.size, PMD) // PMD
    if machine.pool is None:
        return pages
    unused = max(0, machine.pool.free - machine.pool.reserved)
    return machine.pool.total + max(0, pages - unused)


def _pool(machine: MachineFacts) -> Iterator[Finding]:
    pool = machine.pool
    if pool is None:
        yield Finding(ADVICE, "huge pages", "this kernel has no pool of 2 MiB pages")
        return
    state = f"{pool.total} of 2 MiB in the pool, {pool.free} free, {pool.reserved} of these promised"
    needed = _pool_needed(machine)
    if needed <= pool.total:
        yield Finding(OK, "huge pages", state)
    else:
        yield Finding(
            ADVICE,
            "huge pages",
            f"{state}; {format_size(machine.size)} on hugetlb need {needed}",
            f"sudo sysctl vm.nr_hugepages={needed}",
        )


def _thp(machine: MachineFacts) -> Finding:
    if machine.thp_enabled is None:
        return Finding(ADVICE, "THP", "this kernel has no transparent huge pages, so no backend thp")
    return Finding(
        OK,
        "THP",
        f"enabled={machine.thp_enabled}, shmem_enabled={machine.thp_shmem or 'absent'}; backend thp needs neither: "
        "MADV_COLLAPSE ignores both",
    )


def _place(machine: MachineFacts) -> Iterator[Finding]:
    place = machine.place
    if place is None:
        yield Finding(PROBLEM, "tmpfs", "there is no directory for regions of thp and shm")
        return
    if not place.size_bytes:
        yield Finding(OK, "tmpfs", f"{place.path}: {place.fs_type} without a size limit")
        return
    state = f"{place.path}: {place.fs_type} of {format_size(place.size_bytes)}, {format_size(place.free_bytes)} free"
    resize = f"sudo mount -o remount,size={_mebibytes(machine.size + place.size_bytes - place.free_bytes)}M "
    resize += place.mount_point or place.path
    if place.size_bytes == 64 * MIB:
        yield Finding(
            ADVICE,
            "tmpfs",
            f"{state}. 64 MiB is what docker gives a container by default: start it with --shm-size, or as root",
            resize,
        )
    elif place.free_bytes < file_size(machine.size, PMD):
        yield Finding(ADVICE, "tmpfs", f"{state}: too little for {format_size(machine.size)}", resize)
    else:
        yield Finding(OK, "tmpfs", state)


def _mebibytes(size_bytes: int) -> int:
    """Whole MiB that hold `size_bytes` and a record."""
    return -(-(file_size(size_bytes, PMD)) // MIB)


def _remove_ipc(machine: MachineFacts) -> Finding:
    remove = machine.remove_ipc
    if remove is None:
        return Finding(OK, "RemoveIPC", "no systemd runs here, so nothing empties /dev/shm at logout")
    where = f"in {remove.source}" if remove.source else "the default"
    if not remove.enabled:
        return Finding(OK, "RemoveIPC", f"no ({where}): /dev/shm is left alone at logout")
    off = (
        "sudo mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nRemoveIPC=no\\n' | "
        "sudo tee /etc/systemd/logind.conf.d/mshare.conf && sudo systemctl restart systemd-logind"
    )
    if machine.uid < 1000:
        text = f"yes ({where}): it spares system users such as uid {machine.uid}, but removes others' files in /dev/shm"
        return Finding(ADVICE, "RemoveIPC", f"{text} when they log out", off)
    return Finding(
        PROBLEM,
        "RemoveIPC",
        f"yes ({where}): your regions in /dev/shm are removed when the last session of uid {machine.uid} ends",
        off,
    )


def _memory(machine: MachineFacts) -> Iterator[Finding]:
    enough = file_size(machine.size, PMD)
    level = OK if machine.memory_free >= enough else ADVICE
    yield Finding(level, "memory", f"{format_size(machine.memory_free)} can be had ({machine.memory_limit})")
    if machine.cgroup_hidden:
        yield Finding(
            ADVICE,
            "control group",
            f"the memory limit of {machine.cgroup_hidden} cannot be seen under /sys/fs/cgroup; the kernel kills a "
            "process that exceeds such a limit",
        )
    elif machine.cgroup_free is None:
        yield Finding(OK, "control group", "no memory limit")
    elif machine.cgroup_free >= enough:
        yield Finding(OK, "control group", f"{format_size(machine.cgroup_free)} left ({machine.cgroup_limit})")
    else:
        yield Finding(
            ADVICE,
            "control group",
            f"only {format_size(machine.cgroup_free)} left ({machine.cgroup_limit}); raise it where it was set: "
            "docker run --memory, or MemoryMax= of the service",
        )
    if machine.overcommit == 2:
        yield Finding(
            ADVICE,
            "overcommit",
            "vm.overcommit_memory=2: a region counts in full against CommitLimit",
            "sudo sysctl vm.overcommit_memory=0",
        )
    elif machine.overcommit is not None:
        yield Finding(OK, "overcommit", f"vm.overcommit_memory={machine.overcommit}")


def _limits(machine: MachineFacts) -> Iterator[Finding]:
    limits = (("-v", "addresses", machine.address_limit), ("-f", "file size", machine.file_limit))
    for flag, what, limit in limits:
        if limit is None:
            yield Finding(OK, f"ulimit {flag}", "unlimited")
        elif limit < file_size(machine.size, PMD):
            text = f"{format_size(limit)} ({what}): too little for {format_size(machine.size)}"
            yield Finding(PROBLEM, f"ulimit {flag}", text, f"ulimit {flag} unlimited")
        else:
            yield Finding(OK, f"ulimit {flag}", f"{format_size(limit)} ({what})")
    lock = "unlimited" if machine.lock_limit is None else format_size(machine.lock_limit)
    yield Finding(OK, "ulimit -l", f"{lock}; it does not matter, mshare locks no memory")
    if machine.window_free is None:
        yield Finding(ADVICE, "addresses", "unknown, because /proc/self/maps cannot be read")
        return
    text = f"{format_size(machine.window_free)} in one piece are free in mshare's window of addresses"
    yield Finding(OK if machine.window_free >= machine.size else PROBLEM, "addresses", text)


def findings_json(machine: MachineFacts, found: Sequence[Finding]) -> dict[str, Any]:
    """Return facts and findings as JSON has them: everything in bytes, named tuples as objects."""
    facts = {
        key: value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else value
        for key, value in ((name, getattr(machine, name)) for name in asdict(machine))
    }
    facts["backends"] = [backend._asdict() for backend in machine.backends]
    return {
        "usable": any(backend.usable for backend in machine.backends),
        "chosen": machine.chosen,
        "why": machine.why,
        "machine": facts,
        "findings": [{**finding._asdict(), "command": finding.command or None} for finding in found],
    }
