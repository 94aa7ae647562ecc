"""The objects that processes map, each once, with its kind and page size. May depend on: geometry, procfs, linux,
system, scan."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..._core.geometry import PAGE, PMD, PUD
from ..._core.linux.process import ProcessDirectory
from ..._core.procfs import FileId, Mount, Vma, parse_maps, parse_mountinfo, parse_smaps
from ..scan.snapshot import PRIVATE, Kind, Object
from .system import mount_table

_DELETED = " (deleted)"
_KERNELS_OWN = ("/memfd:", "/SYSV", "/anon_hugepage")


class Objects:
    """The objects found so far, each once, and the facts by which their kinds are told."""

    def __init__(self, regions: Mapping[FileId, str]) -> None:
        self._regions = regions
        self._list: list[Object] = []
        self._indexes: dict[tuple[int, int, int], int] = {}
        self._mounts = _by_device(mount_table())
        self._internal = _internal_tmpfs()

    def index(self, vma: Vma, here: ProcessDirectory) -> tuple[int, bool]:
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

    def _make(self, vma: Vma, namespace: int, here: ProcessDirectory) -> Object:
        # In maps the kernel escapes newlines and nothing else, not even backslashes.
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

    def _kind(self, vma: Vma, path: str, here: ProcessDirectory) -> tuple[Kind, int]:
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

    def _page_size(self, vma: Vma, here: ProcessDirectory) -> int:
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
