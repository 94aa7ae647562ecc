"""The backends for regions without names, as far as they differ from the others: memfds, which need no mounted file
system, obey no limit of one, and can be sealed. May depend on: hugetlb, shm, thp, backend, linux, geometry.

On msharefs a file without a name is like all other files and needs no variant.
"""

from __future__ import annotations

from ..backend import Availability, Space
from ..geometry import PMD
from ..linux import memfd
from ..linux.descriptors import Descriptor
from .hugetlb import Hugetlb
from .shm import Shm, memory_space
from .thp import Thp

_LABEL = "mshare"


class ShmMemfd(Shm):
    """A memfd with 4 KiB leaves."""

    def root(self) -> str | None:
        return None

    def open_file(self) -> Descriptor:
        return memfd.create(_LABEL)

    def availability(self) -> Availability:
        return Availability(True, "memfd needs nothing")

    def space(self, node: int | None = None) -> Space:
        return memory_space(node)


class ThpMemfd(ShmMemfd, Thp):
    """A memfd made of 2 MiB pages."""

    def availability(self) -> Availability:
        return self._able()


class HugetlbMemfd(Hugetlb):
    """A memfd of 2 MiB pages from the pool."""

    def root(self) -> str | None:
        return None

    def open_file(self) -> Descriptor:
        return memfd.create(_LABEL, huge=True)

    def availability(self) -> Availability:
        if self.space().free_bytes < 2 * PMD:
            return Availability(False, "there are no free 2 MiB pages", "sudo sysctl vm.nr_hugepages=N")
        return Availability(True, f"{self.space().free_bytes // PMD} free 2 MiB pages")
