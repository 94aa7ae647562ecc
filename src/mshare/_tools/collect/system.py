"""The machine of a snapshot: its memory, its settings, and what nobody can see from here. May depend on: procfs, linux,
scan.
"""

from __future__ import annotations

import os
import platform
import pwd
import socket
from contextlib import suppress
from pathlib import Path

from ..._core.linux.proc import memory_fields, refresh_counters
from ..._core.procfs import parse_mountinfo
from ..scan.snapshot import System

SETTINGS = (
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/nr_overcommit_hugepages",
)
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/uapi/linux/nsfs.h, PID_NS_INIT_INO


def user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def system(blind: tuple[str, ...]) -> System:
    refresh_counters()
    settings = {}
    for path in SETTINGS:
        with suppress(OSError):
            settings[path] = Path(path).read_text().strip()
    return System(socket.gethostname(), platform.release(), memory_fields(), settings, blind)


def mount_table() -> bytes:
    """Return the text of /proc/self/mountinfo; nothing where a sandbox hides it."""
    try:
        return Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return b""


def blindness() -> list[str]:
    """Return why there may be processes that nothing here shows."""
    reasons = []
    table = mount_table()
    if not table:
        reasons.append("the mount table of this process cannot be read: whether /proc hides processes is not known")
    proc = [each for each in parse_mountinfo(table, "proc") if each.mount_point == "/proc"]
    hidden = {option for each in proc[-1:] for option in each.options if option.startswith("hidepid=")}
    if hidden - {"hidepid=0", "hidepid=off"} and os.geteuid() != 0:
        reasons.append(f"/proc is mounted with {min(hidden)}: processes of other users are not seen at all")
    with suppress(OSError):
        if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            reasons.append("this is not the machine's first PID namespace: processes outside of it are not seen at all")
    return reasons
