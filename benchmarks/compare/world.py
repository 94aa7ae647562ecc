"""The file systems of a trial: an empty tmpfs and a hugetlbfs of stated sizes, in a private mount namespace.

May depend on: linux.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from mshare._core.linux.mounts import mount

SHM = Path("/dev/shm")
ROOT = SHM / "root-of-mshare"
"""$MSHARE_ROOT, which is needed because many machines have no usual place for a hugetlbfs."""
HUGE = ROOT / "hugetlb"
MSHAREFS = Path("/sys/fs/mshare")
"""The place of the module's file system, if the module is loaded."""
_TMP = Path("/tmp")
_FREE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")


def free_huge_bytes() -> int:
    """Return the bytes of the machine's free 2 MiB pages."""
    try:
        return int(_FREE.read_text()) << 21
    except FileNotFoundError:
        return 0


def build(shm_bytes: int, huge_bytes: int) -> None:
    """Mount the tmpfs and the hugetlbfs, and an empty /tmp, where Ray, iceoryx2 and vineyard keep files. If the module
    is loaded, also mount the module's file system."""
    mount("tmpfs", SHM, f"size={shm_bytes},mode=1777")
    for place in (ROOT / "shm", HUGE):
        place.mkdir(parents=True)
    with suppress(OSError):  # a user namespace cannot mount hugetlbfs: the trial reports the failure that follows
        mount("hugetlbfs", HUGE, f"pagesize=2M,size={huge_bytes}")
    if Path("/sys/module/mshare").exists():
        mount("msharefs", MSHAREFS, f"size={shm_bytes},mode=1777")
    needed = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path.cwd())
    if not any(path.is_relative_to(_TMP) for path in needed):
        mount("tmpfs", _TMP, "mode=1777")


def choose_root(backend: str) -> None:
    """Tell mshare where to keep its regions. The module's file system stays at its mount point."""
    if backend != "mshare msharefs":
        os.environ["MSHARE_ROOT"] = str(ROOT)
