"""The backends, one file each; `ALL` is in the order of preference.

Each may depend on: backend (the contract), record, linux.
"""

from __future__ import annotations

from ..backend import Backend
from .hugetlb import Hugetlb
from .msharefs import Msharefs
from .shm import Shm
from .thp import Thp

ALL: tuple[Backend, ...] = (Msharefs(), Hugetlb(), Thp(), Shm())
"""Best first: the cheaper the page tables, the earlier."""
