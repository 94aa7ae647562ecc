"""The fixture `region` makes regions for a test, and closes them at the end."""

import os

from . import mfs


class Regions:
    """Makes regions on a mount: regions(pages) is a descriptor that is open for both."""

    def __init__(self, mounted: str) -> None:
        self.mounted = mounted
        self.path = f"{mounted}/region"
        """Of the region that has no other name."""
        self._made: list[int] = []

    def __call__(
        self, pages: int = 16, reserve: bool = True, name: str = "region", mode: int = 0o600, huge: bool = False
    ) -> int:
        fd = os.open(f"{self.mounted}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self._made.append(fd)
        if huge:
            mfs.huge(fd, 1)
        if reserve:
            mfs.fallocate(fd, 0, 0, pages * mfs.PAGE)
        else:
            os.ftruncate(fd, pages * mfs.PAGE)
        return fd

    def close(self) -> None:
        for fd in self._made:
            os.close(fd)
