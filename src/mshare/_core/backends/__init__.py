"""The backends, one file each; `ALL` and `NAMELESS` are in the order of preference.

May depend on: limits, backend (the contract), linux, errors, units, geometry, record."""

from __future__ import annotations

from ..backend import Backend
from .hugetlb import Hugetlb
from .msharefs import Msharefs
from .nameless import HugetlbMemfd, ShmMemfd, ThpMemfd
from .shm import Shm
from .thp import Thp

ALL: tuple[Backend, ...] = (Msharefs(), Hugetlb(), Thp(), Shm())
"""Best first: the cheaper the page tables, the earlier."""

BASELINE = ALL[-1]
"""The backend that every machine has, and the last resort."""

NAMELESS: tuple[Backend, ...] = (Msharefs(), HugetlbMemfd(), ThpMemfd(), ShmMemfd())
"""The same for regions that never get a name."""
