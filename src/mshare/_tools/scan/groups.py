"""The same page tables added up by their owners: command, user, control group, container, systemd unit. Pure.
May depend on: snapshot, survey."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .snapshot import Process, Snapshot
from .survey import Survey

_CONTAINER = re.compile(r"(?:^|[-_/:.])([0-9a-f]{64})(?=$|[-_/:.])")
_UNIT = (".service", ".scope", ".slice", ".mount", ".socket", ".swap")
NOBODY = "-"
"""The group of processes without such an owner."""


class Group(NamedTuple):
    """Processes with the same owner, and their page tables in bytes."""

    name: str
    pids: tuple[int, ...]
    vmpte: int
    """Sum of `VmPTE`, which counts tables that processes share (hugetlb) in each process."""
    shared: int
    """The likely part of the sum for mappings that could share their tables."""
    unread: int
    """Processes whose mappings could not be read: their part of `shared` is not known."""


def container(cgroup: str) -> str:
    """Return the first 12 digits of the container's id in a control group's path, as container tools show it; `-` if
    there is none."""
    found = _CONTAINER.findall(cgroup)
    return found[-1][:12] if found else NOBODY


def unit(cgroup: str) -> str:
    """Return the innermost systemd unit in a control group's path; `-` if there is none."""
    return next((part for part in reversed(cgroup.split("/")) if part.endswith(_UNIT)), NOBODY)


def user(snapshot: Snapshot, uid: int) -> str:
    """Return a user's name, or the number of one that has none."""
    return snapshot.users.get(uid, str(uid))


_KEYS: dict[str, Callable[[Snapshot, Process], str]] = {
    "command": lambda _, process: process.command,
    "user": lambda snapshot, process: user(snapshot, process.uid),
    "cgroup": lambda _, process: process.cgroup or NOBODY,
    "container": lambda _, process: container(process.cgroup),
    "unit": lambda _, process: unit(process.cgroup),
}
KEYS = tuple(_KEYS)
"""The keys by which processes can be grouped."""


def groups(snapshot: Snapshot, survey: Survey, key: str) -> tuple[Group, ...]:
    """Return the processes by `key` (one of `KEYS`), the group with most page tables first."""
    shared: dict[int, int] = {}
    for usage in survey.usages:
        for pid in usage.sharers:
            shared[pid] = shared.get(pid, 0) + usage.by_process[pid]
    found: dict[str, list[Process]] = {}
    for process in snapshot.processes:
        found.setdefault(_KEYS[key](snapshot, process), []).append(process)
    return tuple(
        sorted(
            (
                Group(
                    name,
                    tuple(process.pid for process in members),
                    sum(process.vmpte for process in members),
                    sum(shared.get(process.pid, 0) for process in members),
                    sum(process.areas is None for process in members),
                )
                for name, members in found.items()
            ),
            key=lambda group: (-group.vmpte, group.name),
        )
    )
