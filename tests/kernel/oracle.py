"""The kernel's own words about pages and tasks, from /proc: the oracles of these tests."""

import pathlib

from . import mfs

HWPOISON, BUDDY = 1 << 19, 1 << 10  # /proc/kpageflags
PLACED = 61  # pages of the fixture `placed`
NODES = sum(1 for each in pathlib.Path("/sys/devices/system/node").glob("node[0-9]*"))
KNOWS_BAD_PAGES = "HardwareCorrupted" in pathlib.Path("/proc/meminfo").read_text()


def frame(addr: int) -> int:
    """Return the number of the page frame behind a present address of this process."""
    with open("/proc/self/pagemap", "rb") as f:
        f.seek(addr // mfs.PAGE * 8)
        entry = int.from_bytes(f.read(8), "little")
    assert entry >> 63, "not present"
    return entry & (1 << 55) - 1


def frame_flags(number: int) -> int:
    with open("/proc/kpageflags", "rb") as f:
        f.seek(number * 8)
        return int.from_bytes(f.read(8), "little")


def task_state(pid: int, tid: int | None = None) -> str:
    """Return the task's state (R, S, D, ...), or an empty text if there is no such task."""
    try:
        with open(f"/proc/{pid}/task/{tid or pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
