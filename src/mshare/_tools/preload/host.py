"""The offers of this machine to unmodified programs, and whether they are enough to start one. May depend on: options,
backends.msharefs, linux, errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..._core.backends.msharefs import Msharefs
from ..._core.errors import BackendUnavailableError
from ..._core.linux import libc
from ..._core.linux.memory import memory_room
from .options import Options

_SETTINGS = (
    Path("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled"),
    Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
)
"""The first exists since Linux 6.11; `inherit` there means the second."""


@dataclass(frozen=True, slots=True)
class Host:
    """The offers of this machine to a program of this user."""

    thp_obstacle: str
    """Why shared memory cannot have 2 MiB leaves; empty if it can."""
    shmem_enabled: str
    """The kernel's setting of THP for shared memory; empty if there is none."""
    msharefs_obstacle: str
    """Why no msharefs can be used; empty if one can."""
    free_bytes: int
    """The memory that the machine and this user's control group can still give."""

    @property
    def huge_on_touch(self) -> bool:
        """Whether the kernel makes 2 MiB pages of memory that asks for them (`MADV_HUGEPAGE`), without `mshare`."""
        return self.shmem_enabled in ("always", "within_size", "advise", "force")


def look() -> Host:
    """Look at this machine. Changes nothing."""
    setting = _setting()
    obstacle = ""
    try:
        libc.madvise(0, 0, libc.MADV_COLLAPSE)  # of no bytes: tells whether the kernel knows the advice
    except OSError:
        obstacle = "the kernel has no MADV_COLLAPSE (it needs Linux 6.1 and CONFIG_TRANSPARENT_HUGEPAGE)"
    if not obstacle and setting == "deny":
        obstacle = "shmem_enabled is 'deny': echo never | sudo tee " + str(_SETTINGS[1])
    available = Msharefs().availability()
    return Host(obstacle, setting, "" if available.usable else available.reason, memory_room().free_bytes)


def _setting() -> str:
    for path in _SETTINGS:
        try:
            chosen = path.read_text().partition("[")[2].partition("]")[0]
        except OSError:
            continue
        if chosen != "inherit":
            return chosen
    return ""


def require(host: Host, options: Options) -> None:
    """Raise `BackendUnavailableError` if nothing that the options allow can be had on this machine."""
    if options.backend == "msharefs" and host.msharefs_obstacle:
        raise BackendUnavailableError(
            f"msharefs cannot be used: {host.msharefs_obstacle}", "sudo mshare module load, or use --backend auto"
        )
    if host.thp_obstacle and (options.backend == "thp" or host.msharefs_obstacle):
        raise BackendUnavailableError(
            f"this machine has nothing for unmodified programs: {host.thp_obstacle}",
            "start the program without `mshare run`",
        )


def picks(host: Host, options: Options) -> str:
    """Say in a few words where shared anonymous memory of the program will lie, and when it is filled."""
    if options.backend != "thp" and not host.msharefs_obstacle:
        return "shared page tables (msharefs)"
    if host.huge_on_touch and options.fill == "auto":
        return f"2 MiB pages as the program touches memory (shmem_enabled={host.shmem_enabled})"
    fill = {
        "auto": "filled ahead up to 1 GiB per mapping, else later",
        "ahead": "filled ahead",
        "later": "as the program touches memory",
        "never": "aligned, not filled",
    }
    return f"2 MiB leaves, {fill[options.fill]}"
